"""The widest door: a model is served from the graph that its repository ships, as its reference computes it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engines
import tiny_onnx
from engines import OURS
from senryu import engine, models, outputs
from senryu.engine.exported import ExportedEngine
from senryu.errors import ModelError, SettingError
from senryu.models import ModelSpec, Pooling
from senryu.shelf import fingerprint
from senryu.types import Precision, Vectors
from test_engine import PRECISIONS, batch, batches_of, random_texts, run_each
from tiny import Reference, make_model

EXPORTED = Path(__file__).parent / "golden" / "exported" / "tiny-bert.onnx"
HIDDEN = 32
TABLE = np.random.default_rng(5).normal(size=(200, HIDDEN)).astype(np.float32)
TEXTS = [[2, 17, 30, 44, 3], [2, 9, 3], [7] * 16, list(range(5, 22)), [11]]


def write(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of an architecture that nothing of ours computes; it has no graph yet."""
    folder = make_model(tmp_path / "unheard-of")
    (folder / "model.safetensors").unlink()
    write(folder, "config.json", model_type="unheard-of")
    return folder


@pytest.fixture
def real(folder: Path) -> Path:
    """The same with the file that PyTorch's exporter made of the tiny BERT."""
    (folder / "onnx").mkdir()
    shutil.copy(EXPORTED, folder / "onnx" / "model.onnx")
    return folder


@pytest.fixture
def load() -> Iterator[Callable[..., engine.Engine]]:
    loaded: list[engine.Engine] = []

    def start(
        model: Path | ModelSpec, precision: Precision = Precision.F32, threads: int = 2
    ) -> engine.Engine:
        spec = models.load_spec(model) if isinstance(model, Path) else model
        loaded.append(engine.load(spec, precision=precision, threads=threads))
        return loaded[-1]

    yield start
    for each in loaded:
        each.close()


def looked_up(text: list[int]) -> NDArray[np.float32]:
    return TABLE[text]


def unit(rows: Any) -> Vectors:
    return outputs.normalise(np.array(rows, np.float32))


def means(texts: list[list[int]]) -> NDArray[np.float32]:
    return np.stack([looked_up(text).mean(axis=0) for text in texts])


@pytest.mark.parametrize("length", [1, 2, 7, 16, 17, 63, 64])
def test_an_exported_graph_gives_the_reference_vectors(
    real: Path, tmp_path: Path, load: Callable[..., engine.Engine], length: int
) -> None:
    reference = Reference(make_model(tmp_path / "bert"))
    texts = [[2 + (i * 7 + n) % 90 for i in range(length)] for n in range(3)]
    expected = np.stack([reference.pooled(text) for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    loaded = load(real)
    assert loaded.name == "exported"
    assert np.abs(loaded.run(batch(texts)) - expected).max() <= 1e-6


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_texts_bits_do_not_depend_on_its_batch(
    real: Path, load: Callable[..., engine.Engine], precision: Precision, threads: int
) -> None:
    loaded = load(real, precision, threads)
    assert loaded.reproducible
    texts = random_texts(150, 64)
    alone = run_each(loaded, texts)
    for seed in range(3):
        for indices in batches_of(loaded, texts, seed):
            assert loaded.run(batch([texts[i] for i in indices])).tobytes() == alone[indices].tobytes()


def test_int8_is_refused(real: Path) -> None:
    with pytest.raises(SettingError, match="an exported graph is served as it is"):
        ExportedEngine(models.load_spec(real), precision=Precision.INT8, threads=1)


def test_an_encoder_of_ours_is_preferred_to_a_graph(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "bert")
    (folder / "onnx").mkdir()
    shutil.copy(EXPORTED, folder / "onnx" / "model.onnx")
    assert engine.choose_engine(models.load_spec(folder), Precision.F32) in OURS
    (folder / "model.safetensors").unlink()
    assert engine.choose_engine(models.load_spec(folder), Precision.F32) == "exported"


def test_a_model_with_code_of_its_own_is_served_from_its_graph_alone(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "bert")
    write(folder, "config.json", auto_map={"AutoModel": "modelling.Own"})
    with pytest.raises(ModelError, match="auto_map"):
        models.load_spec(folder)
    (folder / "onnx").mkdir()
    shutil.copy(EXPORTED, folder / "onnx" / "model.onnx")
    assert engine.choose_engine(models.load_spec(folder), Precision.F32) == "exported"


@pytest.mark.parametrize("chosen", [*OURS, "reference"])
def test_an_engine_that_was_asked_for_does_not_stand_in_for_a_models_own_code(
    tmp_path: Path, chosen: str
) -> None:
    folder = make_model(tmp_path / "bert")
    (folder / "onnx").mkdir()
    shutil.copy(EXPORTED, folder / "onnx" / "model.onnx")
    engines.load(models.load_spec(folder), chosen).close()
    write(folder, "config.json", auto_map={"AutoModel": "modelling.Own"})
    with pytest.raises(ModelError, match=r"config\.json: auto_map is .*'exported'"):
        engine.load(models.load_spec(folder), precision=Precision.F32, threads=1, engine=chosen)


@pytest.mark.parametrize("chosen", [*OURS, "reference"])
def test_a_graph_alone_is_not_for_an_engine_that_reads_weights(tmp_path: Path, chosen: str) -> None:
    folder = make_model(tmp_path / "bert")
    (folder / "onnx").mkdir()
    shutil.copy(EXPORTED, folder / "onnx" / "model.onnx")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no safetensors for the engine"):
        engine.load(models.load_spec(folder), precision=Precision.F32, threads=1, engine=chosen)


def test_openvinos_own_format_is_read_and_taken_first(real: Path, load: Callable[..., engine.Engine]) -> None:
    from openvino import Core, save_model  # NOTE: after the engine, which keeps it from looking up a host

    (real / "openvino").mkdir()
    ir = real / "openvino" / "openvino_model.xml"
    save_model(Core().read_model(real / "onnx" / "model.onnx"), ir, compress_to_fp16=False)
    expected = run_each(load(real), TEXTS)
    (real / "onnx" / "model.onnx").write_bytes(b"not read")
    np.testing.assert_allclose(run_each(load(real), TEXTS), unit(expected), atol=1e-6)
    ir.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match=r"openvino_model\.bin: is missing"):
        load(real)


@pytest.mark.parametrize("pooling", list(Pooling))
def test_each_pooling_over_padded_rows(
    folder: Path, load: Callable[..., engine.Engine], pooling: Pooling
) -> None:
    tiny_onnx.lookup(folder / "onnx" / "model.onnx", TABLE)
    rows = [looked_up(text).astype(np.float64) for text in TEXTS]
    expected = {
        Pooling.MEAN: lambda x: x.mean(0),
        Pooling.CLS: lambda x: x[0],
        Pooling.MAX: lambda x: x.max(0),
        Pooling.MEAN_SQRT_LEN: lambda x: x.sum(0) / np.sqrt(len(x)),
        Pooling.WEIGHTED_MEAN: lambda x: np.average(x, axis=0, weights=np.arange(1, len(x) + 1)),
        Pooling.LAST_TOKEN: lambda x: x[-1],
    }[pooling]
    loaded = load(replace(models.load_spec(folder), pooling=pooling))
    computed = loaded.run(batch(TEXTS[:2]))
    np.testing.assert_allclose(computed, unit([expected(x) for x in rows[:2]]), atol=1e-5)
    np.testing.assert_allclose(run_each(loaded, TEXTS), unit([expected(x) for x in rows]), atol=1e-5)


@pytest.mark.parametrize("output", ["token_embeddings", "anything"])
def test_tokens_are_found_under_another_name(
    folder: Path, load: Callable[..., engine.Engine], output: str
) -> None:
    tiny_onnx.lookup(folder / "model.onnx", TABLE, output=output)
    np.testing.assert_allclose(run_each(load(folder), TEXTS), unit(means(TEXTS)), atol=1e-6)


def test_a_graph_that_pools_itself_is_taken_at_its_word(
    folder: Path, load: Callable[..., engine.Engine]
) -> None:
    widest = tiny_onnx.node("ReduceMax", ["tokens"], ["vectors"], axes=[1], keepdims=0)
    tiny_onnx.lookup(
        folder / "onnx" / "model.onnx",
        TABLE,
        output="sentence_embedding",
        then=[widest],
        result="vectors",
        rank=2,
    )
    row = [7] * 16  # the graph leaves no token out, so neither does the test
    loaded = load(folder)
    np.testing.assert_allclose(loaded.run(batch([row, [9] * 16])), unit(TABLE[[7, 9]]), atol=1e-6)
    assert not loaded.reproducible


def test_position_and_type_ids_are_given_where_they_are_asked_for(
    folder: Path, load: Callable[..., engine.Engine]
) -> None:
    inputs = (*tiny_onnx.INPUTS, "token_type_ids", "position_ids")
    then = [
        tiny_onnx.node("Add", ["token_type_ids", "position_ids"], ["places"]),
        tiny_onnx.node("Gather", ["table", "places"], ["by_place"]),
    ]
    tiny_onnx.lookup(folder / "onnx" / "model.onnx", TABLE, inputs=inputs, then=then, result="by_place")
    expected = means([list(range(len(text))) for text in TEXTS])
    np.testing.assert_allclose(run_each(load(folder), TEXTS), unit(expected), atol=1e-6)


@pytest.mark.parametrize("name", ["weights.data", "weights of " + "x" * 150, "größe.data"])
def test_weights_in_a_file_beside_the_graph_are_read_and_hashed(
    folder: Path, load: Callable[..., engine.Engine], name: str
) -> None:
    tiny_onnx.lookup(folder / "onnx" / "model.onnx", TABLE, external=name)
    (folder / "onnx" / name).write_bytes(TABLE.tobytes())
    spec = models.load_spec(folder)
    loaded = load(spec)
    np.testing.assert_allclose(run_each(loaded, TEXTS), unit(means(TEXTS)), atol=1e-6)
    before = fingerprint(spec, loaded)
    (folder / "onnx" / name).write_bytes((TABLE + 1).tobytes())
    assert fingerprint(spec, load(spec)) != before


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("weights.data", r"weights\.data: is missing"),
        ("../../secret", "outside the folder"),
        ("/etc/passwd", "outside"),
        ("./" * 70 + "../../secret", "outside the folder"),
        ("../../secr\u00e9t", "outside the folder"),
        ("x" * 300, "is missing"),
        ("a\nb", "no file's name"),
    ],
)
def test_weights_elsewhere_are_refused(
    folder: Path, load: Callable[..., engine.Engine], place: str, says: str
) -> None:
    tiny_onnx.lookup(folder / "onnx" / "model.onnx", TABLE, external=place)
    (folder.parent / "secret").write_bytes(TABLE.tobytes())
    with pytest.raises(ModelError, match=says):
        load(folder)


@pytest.mark.parametrize("rest", [b"", b"\x80", b"\x85\x80\x80\x80\x80\x80", b"\x04abc", b"\x02\xff\xff"])
def test_a_graph_that_ends_within_the_name_of_a_file_is_refused(folder: Path, rest: bytes) -> None:
    path = folder / "model.onnx"
    path.write_bytes(b"\n\x08location\x12" + rest)
    with pytest.raises(ModelError, match=r"model\.onnx: cannot be read"):
        models.export_files(folder, "model.onnx")


def test_a_quantised_graph_promises_no_bits(folder: Path, load: Callable[..., engine.Engine]) -> None:
    then = [
        tiny_onnx.node("DynamicQuantizeLinear", ["tokens"], ["q", "scale", "zero"]),
        tiny_onnx.node("DequantizeLinear", ["q", "scale", "zero"], ["back"]),
    ]
    tiny_onnx.lookup(folder / "onnx" / "model.onnx", TABLE, then=then, result="back")
    loaded = load(folder)
    assert not loaded.reproducible
    together = loaded.run(batch([[5, 6], [7, 8], [100, 120]]))
    assert together[0].tobytes() != loaded.run(batch([[5, 6]]))[0].tobytes()


def test_a_module_behind_the_pooling_needs_a_graph_that_has_it(
    folder: Path, load: Callable[..., engine.Engine]
) -> None:
    spec = replace(models.load_spec(folder_with_graph(folder)), modules=(models.Normalize(),))
    with pytest.raises(ModelError, match=r"model\.onnx: ends before the model's Normalize module"):
        load(spec)


def folder_with_graph(folder: Path) -> Path:
    tiny_onnx.lookup(folder / "onnx" / "model.onnx", TABLE)
    return folder


def test_a_row_is_never_longer_than_the_model_reads(real: Path, load: Callable[..., engine.Engine]) -> None:
    loaded = load(replace(models.load_spec(real), max_seq_length=50))
    buckets = [loaded.bucket(length) for length in range(1, 51)]
    assert buckets == sorted(buckets)
    assert all(bucket >= length for length, bucket in enumerate(buckets, 1))
    assert max(buckets) == 50


def custom(path: Path) -> None:
    then = [tiny_onnx.node("Sparkle", ["tokens"], ["sparkling"], domain="com.example")]
    tiny_onnx.lookup(path, TABLE, then=then, result="sparkling")


@pytest.mark.parametrize(
    ("write_graph", "says"),
    [
        (custom, "Sparkle"),
        (lambda path: path.write_bytes(b"\x08\x08 not a graph"), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(EXPORTED.read_bytes()[:50_000]), "cannot be read"),
        (
            lambda path: tiny_onnx.lookup(path, TABLE, inputs=("input_ids",)),
            "it needs input_ids and attention_mask",
        ),
        (
            lambda path: tiny_onnx.lookup(path, TABLE, inputs=(*tiny_onnx.INPUTS, "past_key_values.0.key")),
            r"asks for the input 'past_key_values\.0\.key'",
        ),
        (
            lambda path: tiny_onnx.lookup(path, TABLE[:, :16]),
            "gives 16 numbers a text; the model's files say 32",
        ),
    ],
)
def test_a_graph_that_cannot_be_served_is_refused_by_name(
    folder: Path, load: Callable[..., engine.Engine], write_graph: Callable[[Path], Any], says: str
) -> None:
    (folder / "onnx").mkdir()
    write_graph(folder / "onnx" / "model.onnx")
    with pytest.raises(ModelError, match=r"onnx/model\.onnx: ") as refused:
        load(folder)
    assert says.replace("\\", "") in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_graph_of_one_size_is_made_to_take_any(folder: Path, load: Callable[..., engine.Engine]) -> None:
    tiny_onnx.lookup(folder / "onnx" / "model.onnx", TABLE, sizes=(1, 8))
    np.testing.assert_allclose(load(folder).run(batch(TEXTS[:2])), unit(means(TEXTS[:2])), atol=1e-6)


def test_the_fingerprint_follows_the_graph(real: Path, load: Callable[..., engine.Engine]) -> None:
    spec = models.load_spec(real)
    before = fingerprint(spec, load(spec))
    assert fingerprint(spec, load(spec)) == before
    tiny_onnx.lookup(real / "onnx" / "model.onnx", TABLE)
    assert fingerprint(spec, load(spec)) != before


def test_many_threads_may_call(real: Path, load: Callable[..., engine.Engine]) -> None:
    loaded = load(real)
    assert isinstance(loaded, ExportedEngine)
    texts = random_texts(60, 60)
    random.Random(1).shuffle(texts)
    alone = run_each(loaded, texts)
    with ThreadPoolExecutor(8) as pool:
        for expected, row in zip(alone, pool.map(lambda text: loaded.run(batch([text])), texts), strict=True):
            assert row[0].tobytes() == expected.tobytes()
