"""Each family computes what its reference computes: tiny models, against transformers' own float64 output."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from engines import OURS
from families import CHAINS
from senryu import encoders, engine, models, outputs
from senryu.engine import machine
from senryu.engine.model import Model
from senryu.engine.reference import ReferenceEngine
from senryu.engine.weights import Weights
from senryu.errors import ModelError
from senryu.types import Batch, Precision, Vectors
from tiny import make_from_shapes, write_safetensors

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = sorted(path.stem for path in GOLDEN.glob("*.json") if "shapes" in json.loads(path.read_text()))
NATIVE = machine.native_precisions()


def golden(family: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / f"{family}.json").read_text("utf-8"))
    return content


def model_of(folder: Path, family: str, **options: Any) -> models.ModelSpec:
    content = golden(family)
    return models.load_spec(
        make_from_shapes(folder / family, content["config"], content["shapes"], **options)
    )


def batch(texts: list[list[int]]) -> Batch:
    return Batch(np.concatenate(texts).astype(np.int32), np.array([len(ids) for ids in texts], np.int32))


def run_each(loaded: engine.Engine, texts: list[list[int]]) -> Vectors:
    return np.concatenate([loaded.run(batch([text])) for text in texts])


def furthest(a: Any, b: Any) -> float:
    difference = outputs.normalise(np.array(a, np.float32)) - outputs.normalise(np.array(b, np.float32))
    return float(np.abs(difference).max())


def cut(folder: Path, name: str, part: Any) -> Path:
    """Leave only a part of one tensor."""
    return change(folder, name, lambda tensor: tensor[part].copy())


def change(folder: Path, name: str, how: Callable[[Any], Any]) -> Path:
    """Put another tensor in the place of one."""
    path = folder / "model.safetensors"
    length = int.from_bytes(path.read_bytes()[:8], "little")
    names = json.loads(path.read_bytes()[8 : 8 + length]).keys() - {"__metadata__"}
    weights = Weights([path])
    tensors = {each: np.array(weights[each]) for each in sorted(names)}
    path.unlink()
    write_safetensors(path, tensors | {name: how(tensors[name])})
    return folder


def test_every_family_has_a_golden_file() -> None:
    assert {golden(family)["config"]["model_type"] for family in FAMILIES} == set(encoders.FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_yardstick_equals_transformers(tmp_path: Path, family: str) -> None:
    content = golden(family)
    vectors = ReferenceEngine(model_of(tmp_path, family)).run(batch(content["ids"]))
    assert furthest(vectors, content["means"]) <= 5e-7


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_engine_equals_transformers_in_f32(tmp_path: Path, family: str, chosen: str) -> None:
    content = golden(family)
    loaded = engines.load(model_of(tmp_path, family), chosen, threads=2)
    assert furthest(run_each(loaded, content["ids"]), content["means"]) <= 2e-6


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("precision", NATIVE)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_texts_bits_do_not_depend_on_its_batch_in_any_family(
    tmp_path: Path, family: str, precision: Precision, chosen: str
) -> None:
    texts = [ids[:length] for ids in golden(family)["ids"] for length in (3, 17, 62, 64, 80, 150)]
    loaded = engines.load(model_of(tmp_path, family), chosen, precision, threads=2)
    alone = run_each(loaded, texts)
    assert np.isfinite(alone).all()
    rng = np.random.default_rng(0)
    by_bucket: dict[int, list[int]] = {}
    for index in rng.permutation(len(texts)):
        by_bucket.setdefault(loaded.bucket(len(texts[index])), []).append(int(index))
    for indices in by_bucket.values():
        for size in (len(indices), 2, 3):
            for start in range(0, len(indices), size):
                together = indices[start : start + size]
                rows = loaded.run(batch([texts[i] for i in together]))
                assert rows.tobytes() == alone[together].tobytes()


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_stays_close_in_every_family(tmp_path: Path, family: str, chosen: str) -> None:
    if Precision.BF16 not in NATIVE:
        pytest.skip("the processor has no native bf16")
    content = golden(family)
    loaded = engines.load(model_of(tmp_path, family), chosen, Precision.BF16, threads=2)
    exact = outputs.normalise(np.array(content["means"], np.float32))
    assert (exact * run_each(loaded, content["ids"])).sum(1).min() >= 0.999


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("chain", sorted(CHAINS))
def test_poolings_and_modules_equal_sentence_transformers(tmp_path: Path, chain: str, chosen: str) -> None:
    content = golden("chains")
    pooling, modules = CHAINS[chain]
    spec = model_of(tmp_path, "bert", pooling=pooling, modules=modules)
    assert spec.dimensions == len(content[chain][0])
    exact = ReferenceEngine(spec).run(batch(content["ids"]))
    computed = run_each(engines.load(spec, chosen), content["ids"])
    assert furthest(exact, content[chain]) <= 5e-7
    assert furthest(computed, content[chain]) <= 2e-6


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("precision", NATIVE)
@pytest.mark.parametrize("chain", sorted(CHAINS))
def test_a_texts_bits_do_not_depend_on_its_batch_behind_the_pooling(
    tmp_path: Path, chain: str, precision: Precision, chosen: str
) -> None:
    pooling, modules = CHAINS[chain]
    spec = model_of(tmp_path, "bert", pooling=pooling, modules=modules)
    loaded = engines.load(spec, chosen, precision)
    texts = [[5 + (i * n) % 90 for i in range(n)] for n in range(1, 17)]
    assert loaded.run(batch(texts)).tobytes() == run_each(loaded, texts).tobytes()


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_weights_are_widened_exactly(tmp_path: Path, dtype: str, chosen: str) -> None:
    half = model_of(tmp_path / "half", "qwen3", dtype=dtype)
    data = Model(half).weights
    whole = model_of(tmp_path / "whole", "qwen3")
    names = golden("qwen3")["shapes"]
    write_safetensors(whole.folder / "model.safetensors", {name: data[name] for name in names})
    texts = golden("qwen3")["ids"]
    widened, stored = (run_each(engines.load(spec, chosen), texts) for spec in (whole, half))
    assert widened.tobytes() == stored.tobytes()
    assert furthest(stored, golden("qwen3")["means"]) > 1e-6  # or it was no half precision


@pytest.mark.parametrize("chosen", OURS)
def test_a_bf16_table_is_left_in_its_file(tmp_path: Path, chosen: str) -> None:
    if chosen == "native":
        engines.skip_without_kernels()
    content = golden("qwen3")
    content["shapes"]["embed_tokens.weight"] = [500_000, 24]
    folder = make_from_shapes(tmp_path / "m", content["config"], content["shapes"], dtype="BF16")
    # In a process of its own: this one already holds other engines.
    code = (
        "import pathlib, sys\n"
        "from senryu import engine, models\n"
        "def held():\n"
        "    lines = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('RssAnon'))\n"
        "spec = models.load_spec(pathlib.Path(sys.argv[1]))\n"
        "options = dict(precision=engine.choose_precision('f32'), threads=1, engine=sys.argv[3])\n"
        "engine.load(models.load_spec(pathlib.Path(sys.argv[2])), **options)\n"
        "before = held()\n"
        "loaded = engine.load(spec, **options)\n"
        "print(held() - before)\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from /proc")
    small = model_of(tmp_path, "qwen3").folder
    command = [sys.executable, "-c", code, str(folder), str(small), chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 24 * 1024  # widened, the table alone is twice that


def shard(folder: Path, names: list[str], files: int) -> None:
    """Spread the weights over several files, as large models have them."""
    weights = Weights([folder / "model.safetensors"])
    weight_map: dict[str, str] = {}
    for index in range(files):
        file = f"model-{index + 1:05}-of-{files:05}.safetensors"
        own = names[index::files]
        write_safetensors(folder / file, {name: weights[name] for name in own})
        weight_map |= dict.fromkeys(own, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def test_weights_in_several_files_are_the_same_model(tmp_path: Path) -> None:
    content = golden("modernbert")
    spec = model_of(tmp_path, "modernbert")
    one = ReferenceEngine(spec).run(batch(content["ids"]))
    shard(spec.folder, list(content["shapes"]), 3)
    sharded = models.load_spec(spec.folder)
    assert len(sharded.weight_files) == 3
    assert {*sharded.weight_files, "model.safetensors.index.json"} <= set(sharded.files)
    assert ReferenceEngine(sharded).run(batch(content["ids"])).tobytes() == one.tobytes()


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize(
    ("family", "prefix", "extra"),
    [
        ("bert", "bert.", "cls.predictions.bias"),
        ("distilbert", "distilbert.", "vocab_transform.bias"),
        ("modernbert", "model.", "head.dense.weight"),
        ("mpnet", "mpnet.", "lm_head.bias"),
        ("new", "new.", "classifier.bias"),
        ("nomic_bert", "bert.", "cls.predictions.decoder.bias"),
        ("qwen3", "model.", "lm_head.weight"),
        ("gemma3_text", "model.", "lm_head.weight"),
        ("roberta", "roberta.", "lm_head.bias"),
    ],
)
def test_a_model_inside_a_larger_one_is_found(
    tmp_path: Path, family: str, prefix: str, extra: str, chosen: str
) -> None:
    spec = model_of(tmp_path, family)
    content = golden(family)
    weights = Weights([spec.folder / "model.safetensors"])
    renamed = {f"{prefix}{name}": weights[name] for name in content["shapes"]}
    write_safetensors(spec.folder / "model.safetensors", renamed | {extra: np.zeros(3, np.float32)})
    loaded = engines.load(spec, chosen)
    assert furthest(run_each(loaded, content["ids"]), content["means"]) <= 2e-6


def test_the_first_berts_names_of_a_norm_are_read(tmp_path: Path) -> None:
    spec = model_of(tmp_path, "bert")
    content = golden("bert")
    weights = Weights([spec.folder / "model.safetensors"])
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name in content["shapes"]:
        ending = next((new for new in old if name.endswith(new)), "")
        renamed[name.removesuffix(ending) + old.get(ending, "")] = weights[name]
    assert "embeddings.LayerNorm.gamma" in renamed
    write_safetensors(spec.folder / "model.safetensors", renamed)
    assert furthest(ReferenceEngine(spec).run(batch(content["ids"])), content["means"]) <= 5e-7


ROPE = {"rope_type": "default"}
OLD_AND_NEW_KEYS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "modernbert": (
        ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
        {
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": ROPE | {"rope_theta": 160000.0},
                "sliding_attention": ROPE | {"rope_theta": 10000.0},
            },
        },
    ),
    "gemma3_text": (
        ("_sliding_window_pattern", "rope_local_base_freq", "rope_theta"),
        {
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": ROPE | {"rope_theta": 1000000.0},
                "sliding_attention": ROPE | {"rope_theta": 10000.0},
            },
        },
    ),
    "nomic_bert": (
        ("n_embd", "n_head", "n_layer", "n_positions", "layer_norm_epsilon", "rotary_emb_base"),
        {
            "hidden_size": 24,
            "num_attention_heads": 3,
            "num_hidden_layers": 2,
            "max_position_embeddings": 160,
            "layer_norm_eps": 1e-12,
            "rope_parameters": ROPE | {"rope_theta": 1000.0},
        },
    ),
    "qwen3": (("rope_theta",), {"rope_parameters": ROPE | {"rope_theta": 1000000.0}}),
}


@pytest.mark.parametrize("family", ["modernbert", "gemma3_text", "nomic_bert", "qwen3"])
def test_keys_of_newer_files_mean_the_same(tmp_path: Path, family: str) -> None:
    content = golden(family)
    old, new = OLD_AND_NEW_KEYS[family]
    for changes in (dict.fromkeys(new), dict.fromkeys(old) | new):
        content["config"] |= changes
        folder = make_from_shapes(tmp_path / str(len(changes)), content["config"], content["shapes"])
        vectors = ReferenceEngine(models.load_spec(folder)).run(batch(content["ids"]))
        assert furthest(vectors, content["means"]) <= 5e-7


# What an encoder does not compute is never computed as something else.
VARIANTS: list[tuple[str, str, Any]] = [
    ("bert", "hidden_act", "mish"),
    ("bert", "position_embedding_type", "relative_key"),
    ("bert", "is_decoder", True),
    ("bert", "num_attention_heads", 5),
    ("bert", "num_hidden_layers", 2.5),
    ("bert", "layer_norm_eps", "small"),
    ("jina_bert", "feed_forward_type", "original"),
    ("jina_bert", "auto_map", {"AutoModel": "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel"}),
    ("mpnet", "relative_attention_num_buckets", 64),
    ("mpnet", "pad_token_id", 0),
    ("modernbert", "layer_types", ["full_attention"]),
    ("modernbert", "rope_parameters", {"full_attention": {"rope_type": "yarn", "rope_theta": 1.0}}),
    ("modernbert", "norm_bias", "no"),
    ("modernbert", "rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
    ("nomic_bert", "rotary_scaling_factor", 2),
    ("nomic_bert", "rotary_emb_fraction", 0.5),
    ("nomic_bert", "activation_function", "gelu"),
    ("nomic_bert", "moe_every_n_layers", 2),
    ("nomic_bert", "prenorm", True),
    ("qwen3", "use_sliding_window", True),
    ("qwen3", "rope_scaling", {"type": "yarn", "factor": 4.0}),
    ("qwen3", "num_key_value_heads", 3),
    ("gemma3_text", "use_bidirectional_attention", None),
    ("gemma3_text", "attn_logit_softcapping", 50.0),
    ("new", "rope_scaling", {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}),
    ("new", "rope_scaling", {"type": "linear", "factor": 2.0}),
    ("new", "layer_norm_type", "rms_norm"),
    ("new", "logn_attention_scale", True),
]


@pytest.mark.parametrize(("family", "key", "value"), VARIANTS)
def test_a_variant_that_is_not_computed_is_refused_by_its_key(
    tmp_path: Path, family: str, key: str, value: Any
) -> None:
    content = golden(family)
    folder = make_from_shapes(tmp_path / "m", content["config"] | {key: value}, content["shapes"])
    with pytest.raises(ModelError, match=rf"m/config\.json: {key} is {re.escape(repr(value))}; [^\n]+\.$"):
        ReferenceEngine(models.load_spec(folder))


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_weight_is_named_in_every_family(tmp_path: Path, family: str, chosen: str) -> None:
    content = golden(family)
    for name in list(content["shapes"])[::5]:
        if name.startswith("pooler."):
            continue
        shapes = {other: shape for other, shape in content["shapes"].items() if other != name}
        folder = make_from_shapes(tmp_path / "m", content["config"], shapes)
        with pytest.raises(
            ModelError, match=rf"model\.safetensors: the tensor '{re.escape(name)}' is missing"
        ):
            engines.load(models.load_spec(folder), chosen)


def shaped(shape: Any, **changes: Any) -> bytes:
    return json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]} | changes}).encode()


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"x": ' * 100_000,
        shaped([-1, -2]),
        shaped([2.0]),
        shaped([True, 2]),
        shaped("2"),
        shaped([2] + [1] * 100),
        shaped([0, 1 << 62], data_offsets=[0, 0]),
        shaped([2], data_offsets=[0.0, 8.0]),
        shaped([2], data_offsets=[-8, 0]),
    ],
    ids=range(10),
)
def test_a_header_that_no_writer_makes_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelError, match=r"model\.safetensors: "):
        _ = Weights([path])["x"]
