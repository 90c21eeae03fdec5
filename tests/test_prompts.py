"""From a text and its prompt to the vector that sentence-transformers makes of them, on prompted.py's tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engines
import prompted
import tiny_onnx
from engines import OURS
from prompted import CASES, END, LONGEST, TEXTS, byte_level
from senryu import engine, models, outputs
from senryu.engine import machine
from senryu.engine.reference import ReferenceEngine
from senryu.errors import ModelError
from senryu.fairqueue import Job
from senryu.models import ModelSpec, Pooling
from senryu.tokenizer import Tokenizer
from senryu.types import Batch, Precision, Task, Tokens, Truncate, Vectors
from server import Server
from test_encoders import furthest

GOLDEN: dict[str, Any] = json.loads((prompted.GOLDEN / "prompted.json").read_text("utf-8"))
NATIVE = machine.native_precisions()
TABLE = np.random.default_rng(5).normal(size=(200, 24)).astype(np.float32)
ASKED = [(name, Task(task)) for name, case in CASES.items() for task in case.prompts]
LEFT_OUT = [name for name, case in CASES.items() if not case.include_prompt]


@pytest.fixture(scope="module")
def spec_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelSpec]:
    made: dict[str, ModelSpec] = {}

    def make(name: str) -> ModelSpec:
        if name not in made:
            made[name] = models.load_spec(prompted.make(tmp_path_factory.mktemp("prompted") / name, name))
        return made[name]

    return make


def read(spec: ModelSpec, task: Task, texts: tuple[str, ...] = TEXTS) -> list[Tokens]:
    return Tokenizer(spec).encode_now(texts, task, Truncate.END)


def run_each(loaded: engine.Engine, texts: list[Tokens]) -> Vectors:
    return np.concatenate([loaded.run(engine.batch_of([text])) for text in texts])


def test_every_case_is_on_record() -> None:
    assert {*GOLDEN} == {*CASES, "made_with"}
    assert {task for name in CASES for task in GOLDEN[name]} == set(Task)


@pytest.mark.parametrize(("name", "task"), ASKED)
def test_a_text_is_read_as_by_the_reference(
    spec_of: Callable[[str], ModelSpec], name: str, task: Task
) -> None:
    golden = GOLDEN[name][task]
    found = read(spec_of(name), task, CASES[name].texts)
    assert [tokens.ids.tolist() for tokens in found] == golden["ids"]
    assert [tokens.truncated for tokens in found] == [len(ids) == LONGEST for ids in golden["ids"]]
    left_out = 0 if CASES[name].include_prompt else golden["prompt_length"]
    assert {tokens.prompt_length for tokens in found} == {left_out}


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize(("name", "task"), ASKED)
def test_a_text_behind_its_prompt_has_the_references_vector(
    spec_of: Callable[[str], ModelSpec], name: str, task: Task, chosen: str
) -> None:
    spec = spec_of(name)
    texts = read(spec, task, CASES[name].texts)
    expected = GOLDEN[name][task]["vectors"]
    assert furthest(run_each(ReferenceEngine(spec), texts), expected) <= 5e-7
    computed = run_each(engines.load(spec, chosen), texts)
    assert furthest(computed, expected) <= 2e-6


@pytest.mark.parametrize("name", ["four-prompts", "left-out-mean", "qwen3"])
def test_every_prompt_makes_another_vector(spec_of: Callable[[str], ModelSpec], name: str) -> None:
    spec = spec_of(name)
    rows = [
        run_each(ReferenceEngine(spec), read(spec, task, TEXTS[:1]))[0]
        for task in map(Task, CASES[name].prompts)
    ]
    assert len({row.tobytes() for row in rows}) == len(rows)


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("precision", NATIVE)
@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_texts_bits_do_not_depend_on_the_prompts_of_its_batch(
    spec_of: Callable[[str], ModelSpec], name: str, precision: Precision, chosen: str
) -> None:
    spec = spec_of(name)
    loaded = engines.load(spec, chosen, precision, threads=2)
    texts = [text for task in Task for text in read(spec, task, (*TEXTS, "frog pond " * 7, "rain"))]
    assert len({text.prompt_length for text in texts}) > 1
    alone = run_each(loaded, texts)
    assert np.isfinite(alone).all()
    order = np.random.default_rng(0).permutation(len(texts))
    by_bucket: dict[int, list[int]] = {}
    for index in order:
        by_bucket.setdefault(loaded.bucket(len(texts[index].ids)), []).append(int(index))
    for indices in by_bucket.values():
        for size in (len(indices), 2, 3):
            for start in range(0, len(indices), size):
                together = indices[start : start + size]
                rows = loaded.run(engine.batch_of([texts[i] for i in together]))
                assert rows.tobytes() == alone[together].tobytes()


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("name", LEFT_OUT)
def test_bf16_leaves_the_same_tokens_out(spec_of: Callable[[str], ModelSpec], name: str, chosen: str) -> None:
    if Precision.BF16 not in NATIVE:
        pytest.skip("the processor has no native bf16")
    spec = spec_of(name)
    loaded = engines.load(spec, chosen, Precision.BF16)
    for task in map(Task, CASES[name].prompts):
        exact = np.array(GOLDEN[name][task]["vectors"])
        given = run_each(loaded, read(spec, task, CASES[name].texts))
        cosines = (exact * given).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(given, axis=1)
        assert cosines.min() >= 0.999


@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("chosen", [*OURS, "reference"])
def test_a_text_that_is_prompt_alone_has_zeros_but_for_its_first_token(
    spec_of: Callable[[str], ModelSpec], pooling: Pooling, chosen: str
) -> None:
    spec = spec_of(f"left-out-{pooling.value}")
    loaded = engines.load(spec, chosen)
    ids = np.array([2, 111, 67, 3], np.int32)
    rows = loaded.run(Batch(np.tile(ids, 3), np.full(3, 4, np.int32), np.array([0, 4, 9], np.int32)))
    if pooling is Pooling.CLS:
        assert rows[1].tobytes() == rows[2].tobytes() == rows[0].tobytes()
    else:
        assert not rows[1:].any()
    assert rows[0].any()


def test_a_model_that_pools_its_prompts_is_handed_no_lengths_of_them(
    spec_of: Callable[[str], ModelSpec],
) -> None:
    texts = read(spec_of("four-prompts"), Task.SEARCH_QUERY)
    assert engine.batch_of(texts).prompt_lengths is None
    texts = read(spec_of("left-out-mean"), Task.SEARCH_QUERY)
    given = engine.batch_of(texts).prompt_lengths
    assert given is not None
    assert given.tolist() == [5] * len(texts)


@pytest.mark.parametrize("name", ["left-out-mean", "uneven-cls"])
def test_ids_of_a_text_are_pooled_as_the_text(spec_of: Callable[[str], ModelSpec], name: str) -> None:
    spec = spec_of(name)
    tokenizer = Tokenizer(spec)
    for task, text, truncate in product(Task, TEXTS, (Truncate.END, Truncate.START)):
        (by_text,) = tokenizer.encode_now([text], task, truncate)
        ids = tokenizer._tokenizer.encode(text, add_special_tokens=False).ids
        (by_ids,) = tokenizer.complete([ids], task, truncate)
        assert by_ids.ids.tolist() == by_text.ids.tolist()
        assert by_ids.prompt_length == by_text.prompt_length
        assert len(by_ids.ids) <= LONGEST


def test_a_prompt_of_the_command_line_is_left_out_too(spec_of: Callable[[str], ModelSpec]) -> None:
    spec = models.with_prompts(spec_of("left-out-mean"), {Task.CLUSTERING: "old pond of "})
    (tokens,) = read(spec, Task.CLUSTERING, ("frog",))
    assert tokens.prompt_length == 4
    assert len(tokens.ids) == 6


def test_two_texts_of_the_same_ids_are_not_one_where_other_tokens_are_pooled() -> None:
    ids = np.array([2, 111, 67, 3], np.int32)
    jobs = [Job(Tokens(ids, prompt_length=length), (0, 16), "key", []) for length in (0, 2, 2)]
    assert jobs[0].identity != jobs[1].identity == jobs[2].identity


def test_a_server_answers_with_the_references_vectors_and_token_counts(
    spec_of: Callable[[str], ModelSpec], tmp_path: Path
) -> None:
    name = "left-out-weightedmean"
    with Server(tmp_path / "home", spec_of(name).folder, env={"SENRYU_PRECISION": "f32"}) as server:
        for task, golden in GOLDEN[name].items():
            answer = server.embed(list(TEXTS), input_type=task, encoding_format="base64")
            assert furthest(answer.floats(), golden["vectors"]) <= 2e-6
            assert answer.json()["usage"]["prompt_tokens"] == sum(map(len, golden["ids"]))


# ---- behind an exported graph ------------------------------------------------------------------------------


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A model that is served from its graph alone, which looks tokens up in a table."""
    folder = prompted.make(tmp_path / "graph", "left-out-mean")
    (folder / "model.safetensors").unlink()
    tiny_onnx.lookup(folder / "onnx" / "model.onnx", TABLE)
    return folder


@pytest.mark.parametrize("pooling", list(Pooling))
def test_the_same_tokens_are_left_out_behind_an_exported_graph(graph: Path, pooling: Pooling) -> None:
    spec = replace(models.load_spec(graph), pooling=pooling)
    loaded = engine.load(spec, precision=Precision.F32, threads=1)
    assert loaded.name == "exported"
    texts = [[2, 17, 30, 44, 3], [2, 9, 3], [7] * 16, list(range(5, 22)), [11]]
    lengths, prompts = np.array([5, 3, 16, 17, 1], np.int32), np.array([2, 0, 15, 5, 1], np.int32)
    rows = loaded.run(Batch(np.concatenate(texts).astype(np.int32), lengths, prompts))
    for row, text, prompt in zip(rows, texts, prompts, strict=True):
        expected = outputs.normalise(pooled(TABLE[text].astype(np.float64), int(prompt), pooling)[None])[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)
        alone = loaded.run(Batch(np.array(text, np.int32), np.array([len(text)]), np.array([prompt])))
        np.testing.assert_allclose(alone[0], expected, atol=1e-5)


def pooled(tokens: NDArray[np.float64], prompt: int, pooling: Pooling) -> NDArray[np.float64]:
    if prompt == len(tokens):
        return tokens[0] if pooling is Pooling.CLS else np.zeros_like(tokens[0])
    x, places = tokens[prompt:], np.arange(prompt, len(tokens)) + 1.0
    return {
        Pooling.MEAN: lambda: x.mean(0),
        Pooling.CLS: lambda: x[0],
        Pooling.MAX: lambda: x.max(0),
        Pooling.MEAN_SQRT_LEN: lambda: x.sum(0) / np.sqrt(len(x)),
        Pooling.WEIGHTED_MEAN: lambda: np.average(x, axis=0, weights=places),
        Pooling.LAST_TOKEN: lambda: x[-1],
    }[pooling]()


def test_a_graph_that_pools_by_itself_is_refused_for_a_model_that_leaves_its_prompts_out(graph: Path) -> None:
    widest = tiny_onnx.node("ReduceMax", ["tokens"], ["vectors"], axes=[1], keepdims=0)
    how: dict[str, Any] = {"output": "sentence_embedding", "then": [widest], "result": "vectors", "rank": 2}
    tiny_onnx.lookup(graph / "onnx" / "model.onnx", TABLE, **how)
    with pytest.raises(
        ModelError, match=r"model\.onnx: pools by itself, .* leaves the tokens of its prompts out"
    ):
        engine.load(models.load_spec(graph), precision=Precision.F32, threads=1)
    prompted.change(graph / "config_sentence_transformers.json", prompts={})
    engine.load(models.load_spec(graph), precision=Precision.F32, threads=1).close()


# ---- the token at the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("truncate", [Truncate.END, Truncate.START])
@pytest.mark.parametrize("words", [0, 1, 5, 30, 31, 32, 33, 100, 3000])
def test_the_token_that_a_tokenizer_ends_a_text_with_is_never_cut_off(
    spec_of: Callable[[str], ModelSpec], truncate: Truncate, words: int
) -> None:
    spec = spec_of("qwen3")
    exact = byte_level()
    exact.enable_truncation(LONGEST, direction="left" if truncate is Truncate.START else "right")
    text = " ".join(["frog the a"] * words)
    (tokens,) = Tokenizer(spec).encode_now([text], Task.SEARCH_DOCUMENT, truncate)
    assert tokens.ids.tolist() == exact.encode(text).ids
    assert tokens.ids[-1] == exact.token_to_id(END)
    (query,) = Tokenizer(spec).encode_now([text], Task.SEARCH_QUERY, truncate)
    assert query.ids[-1] == exact.token_to_id(END)
    assert len(query.ids) == min(LONGEST, 18 + len(exact.encode(text, add_special_tokens=False).ids))
