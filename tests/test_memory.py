"""What a model is said to take of memory: held against what a process really holds, and followed to its causes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny_onnx
from senryu import engine, models
from senryu.engine import kernels, machine
from senryu.engine.memory import LONGEST_TEXT, MIB, of_native, of_openvino, of_tokenizer
from senryu.engine.native import NativeEngine
from senryu.engine.weights import Weights
from senryu.errors import ModelError
from senryu.models import ModelSpec
from senryu.types import Precision
from test_encoders import FAMILIES, golden, model_of
from test_exported import TABLE
from test_int8 import quantised
from tiny import make_from_shapes, make_model

WIDE = 64 * MIB // 4  # numbers
PRECISIONS = [*machine.native_precisions(), *([Precision.INT8] if machine.multiplies_int8() else [])]
ESTIMATES = {"native": of_native, "openvino": of_openvino}
COMPUTED = [
    (name, precision)
    for name in ESTIMATES
    for precision in PRECISIONS
    if name == "openvino" or kernels.run(precision)
]

# Loads a model and runs batches of each width; says by how much what the process alone holds has grown, in bytes.
HELD = """
import pathlib, sys
import numpy as np
from senryu import engine, models
from senryu.types import Batch, Precision
def held():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10
def run(loaded, texts, length):
    loaded.run(Batch(np.ones(texts * length, np.int32), np.full(texts, length, np.int32)))
def load(folder, precision):
    return engine.load(models.load_spec(pathlib.Path(folder)), precision=precision, threads=1, engine=name)
first, folder, precision, name = sys.argv[1:]
run(load(first, Precision.F32), 1, 8)
before = held()
loaded = load(folder, Precision(precision))
for length in (16, 64, 128, 256):
    for texts in (1, 1024 // length):
        run(loaded, texts, length)
print(held() - before)
"""


def wide(folder: Path, dtype: str = "F32", vocabulary: int = 100) -> ModelSpec:
    """The tiny Qwen3 with a table of `vocabulary` rows."""
    content = golden("qwen3")
    content["shapes"]["embed_tokens.weight"] = [vocabulary, 24]
    return models.load_spec(make_from_shapes(folder, content["config"], content["shapes"], dtype=dtype))


@pytest.mark.parametrize(("name", "precision"), COMPUTED)
def test_the_estimate_is_near_what_a_process_holds(
    model_cache: Path, tiny_folder: Path, name: str, precision: Precision
) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from /proc")
    spec = models.resolve("all-minilm-l6-v2", model_cache)
    command = [sys.executable, "-c", HELD, str(tiny_folder), str(spec.folder), precision, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    estimated = ESTIMATES[name](spec, precision, streams=1)
    assert 0.8 * int(done.stdout) < estimated < 1.6 * int(done.stdout)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_estimated_from_all_of_its_weights(tmp_path: Path, family: str) -> None:
    spec = model_of(tmp_path, family)
    shapes = [
        shape
        for name, shape in golden(family)["shapes"].items()
        if len(shape) == 2 and not any(part in name for part in ("embed", "relative", "pooler"))
    ]
    per_number = 4 - 2  # f32 less bf16
    longer = of_openvino(spec, Precision.F32, 0) - of_openvino(spec, Precision.BF16, 0)
    assert longer == per_number * sum(rows * columns for rows, columns in shapes)
    longer = of_native(spec, Precision.F32, 0) - of_native(spec, Precision.BF16, 0)
    parts = 64 * sum(columns for rows, columns in shapes)  # each is filled up to 64 outputs or more
    assert longer >= per_number * parts
    for of, least in ((of_openvino, 16 * MIB), (of_native, MIB)):
        none, one, two = (of(spec, Precision.F32, streams) for streams in (0, 1, 2))
        assert two - one == one - none > least


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if kernels.run(p)])
@pytest.mark.parametrize("family", FAMILIES)
def test_our_kernels_keep_what_is_estimated(tmp_path: Path, family: str, precision: Precision) -> None:
    spec = model_of(tmp_path, family)
    if precision is Precision.INT8:
        quantised(spec)
    loaded = NativeEngine(spec, precision=precision, threads=1)
    kept = {id(array): array.nbytes for array in loaded._plan.kept if isinstance(array, np.ndarray)}
    loaded.close()
    small = 64 << 10
    assert of_native(spec, precision, 0) == pytest.approx(sum(kept.values()), abs=small)


def test_a_table_that_is_read_in_its_file_is_not_counted(tmp_path: Path) -> None:
    rows = WIDE // 24
    for dtype, counted in (("F32", 0), ("BF16", 0), ("F16", 4 * rows * 24)):
        specs = [wide(tmp_path / f"{dtype}-{size}", dtype, size) for size in (100, rows)]
        for of in ESTIMATES.values():
            small, large = (of(spec, Precision.BF16, 1) for spec in specs)
            assert large - small == pytest.approx(counted, abs=MIB)


def test_weights_of_half_precision_count_as_widened_in_openvino_alone(tmp_path: Path) -> None:
    stored, half = (wide(tmp_path / dtype, dtype) for dtype in ("F32", "BF16"))
    linear = of_openvino(stored, Precision.F32, 0)
    assert of_openvino(half, Precision.F32, 0) == 2 * linear
    assert of_openvino(half, Precision.INT8, 0) == of_openvino(stored, Precision.INT8, 0)
    for precision in Precision:
        assert of_native(half, precision, 0) == of_native(stored, precision, 0)


@pytest.mark.parametrize(
    ("family", "grows"),
    [("bert", 0), ("modernbert", 6), ("qwen3", 6), ("jina_bert", 8 * 3), ("mpnet", 8 * 3)],
)
def test_openvino_lays_out_a_mask_over_pairs_of_tokens_and_our_kernels_none(
    tmp_path: Path, family: str, grows: int
) -> None:
    spec = model_of(tmp_path, family)
    step = (LONGEST_TEXT - 2048) // 2
    for of, a_pair in ((of_openvino, grows), (of_native, 0)):
        each = [of(replace(spec, max_seq_length=2048 + index * step), Precision.F32, 1) for index in range(3)]
        assert each[2] - 2 * each[1] + each[0] == a_pair * 2 * step**2
        assert each[2] > each[0]


def test_longer_texts_than_most_send_count_for_the_tables_of_positions_alone(tmp_path: Path) -> None:
    for family in ("bert", "qwen3"):
        spec = model_of(tmp_path, family)
        usual, longer = (replace(spec, max_seq_length=length) for length in (LONGEST_TEXT, 10 * LONGEST_TEXT))
        assert of_openvino(longer, Precision.F32, 1) == of_openvino(usual, Precision.F32, 1)
        angles = 9 * LONGEST_TEXT * 2 * 4 * 4 * (family == "qwen3")  # of 4 pairs of channels
        assert of_native(longer, Precision.F32, 1) == of_native(usual, Precision.F32, 1) + angles


def test_the_engine_that_would_serve_is_the_one_that_is_estimated(tmp_path: Path) -> None:
    spec = models.load_spec(make_model(tmp_path / "m"))
    chosen = engine.choose_engine(spec, Precision.F32)
    for name, of in {**ESTIMATES, "auto": ESTIMATES[chosen]}.items():
        ahead = 1 if of is of_native else 0  # a batch lies ready beside those that run
        expected = of(spec, Precision.F32, 1 + ahead) + of_tokenizer(spec)
        assert engine.memory_bytes(spec, Precision.F32, 1, name) == expected


def test_what_an_engine_does_not_compute_is_not_estimated(tmp_path: Path) -> None:
    spec = replace(models.load_spec(make_model(tmp_path / "m")), weight_files=())
    with pytest.raises(ModelError, match="no safetensors for the engine 'openvino'"):
        engine.memory_bytes(spec, Precision.F32, 1, "openvino")


def test_released_weights_leave_memory_and_can_be_read_again(tmp_path: Path) -> None:
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("what is resident of a file is read from /proc")
    spec = wide(tmp_path / "m", vocabulary=WIDE // 24)
    path = spec.folder / "model.safetensors"

    def resident() -> int:
        """KiB of the file."""
        _, _, mapped = maps.read_text().partition(str(path))
        return int(mapped.partition("\nRss:")[2].split()[0])

    weights = Weights([path])
    before = weights["embed_tokens.weight"].sum()
    assert resident() > WIDE * 4 / 1024 * 0.9
    weights.release()
    assert resident() < 100
    assert weights["embed_tokens.weight"].sum() == before


def test_a_graph_counts_by_its_files(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "graph", hidden=32)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "unheard-of"}))
    graph = tiny_onnx.lookup(folder / "onnx" / "model.onnx", TABLE)
    spec = models.load_spec(folder)
    before = engine.memory_bytes(spec, Precision.F32, 1)
    with graph.open("ab") as file:
        file.write(bytes(1000))
    assert engine.memory_bytes(spec, Precision.F32, 1) == before + 2 * 1000


def test_a_tokenizer_counts_and_one_that_keeps_a_tree_of_words_counts_more(tmp_path: Path) -> None:
    spec = models.load_spec(make_model(tmp_path / "m"))
    path = spec.folder / "tokenizer.json"
    assert of_tokenizer(spec) == 12 * path.stat().st_size
    path.write_text(path.read_text().replace('"WordPiece"', '"Unigram"'))
    assert of_tokenizer(spec) == 20 * path.stat().st_size


def test_files_that_cannot_be_served_are_refused_by_name(tmp_path: Path) -> None:
    spec = models.load_spec(make_model(tmp_path / "m"))
    path = spec.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"m/model\.safetensors: "):
        engine.memory_bytes(spec, Precision.F32, 1)
