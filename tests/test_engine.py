"""What every engine promises, on tiny models and on the default one."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import engines
from engines import OURS
from senryu import engine, models
from senryu.engine import Engine, machine
from senryu.engine.reference import ReferenceEngine
from senryu.errors import ModelError, SettingError
from senryu.types import Batch, Precision, Vectors
from tiny import make_model, write_safetensors

NATIVE = machine.native_precisions()
PRECISIONS = [
    pytest.param(
        precision,
        marks=pytest.mark.skipif(precision not in NATIVE, reason=f"the processor has no native {precision}"),
    )
    for precision in (Precision.BF16, Precision.F32)  # int8 needs a calibration: test_int8.py
]


def batch(texts: list[list[int]]) -> Batch:
    return Batch(
        np.concatenate([np.array(ids, np.int32) for ids in texts]),
        np.array([len(t) for t in texts], np.int32),
    )


def random_texts(count: int, longest: int, seed: int = 0, vocabulary: int = 100) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(5, vocabulary) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def run_each(loaded: Engine, texts: list[list[int]]) -> Vectors:
    return np.concatenate([loaded.run(batch([text])) for text in texts])


def batches_of(loaded: Engine, texts: list[list[int]], seed: int) -> list[list[int]]:
    """Indices of texts, in random batches of one bucket each."""
    rng = random.Random(seed)
    order = list(range(len(texts)))
    rng.shuffle(order)
    by_bucket: dict[int, list[int]] = {}
    for index in order:
        by_bucket.setdefault(loaded.bucket(len(texts[index])), []).append(index)
    batches = []
    for indices in by_bucket.values():
        while indices:
            size = rng.randint(1, 20)
            batches.append(indices[:size])
            indices = indices[size:]
    return batches


@pytest.fixture(scope="module")
def default_spec(model_cache: Path) -> models.ModelSpec:
    return models.resolve("all-minilm-l6-v2", model_cache)


@pytest.fixture(scope="module")
def yardstick(default_spec: models.ModelSpec) -> tuple[list[list[int]], Vectors]:
    """Texts, and their exact vectors by the default model."""
    texts = [[101, *text, 102] for text in random_texts(12, 60, vocabulary=30000)]
    return texts, ReferenceEngine(default_spec).run(batch(texts))


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("length", [1, 2, 7, 31, 32, 33, 63, 64])
def test_each_engine_equals_the_numpy_yardstick_in_f32(tiny_folder: Path, length: int, chosen: str) -> None:
    spec = models.load_spec(tiny_folder)
    texts = [[2 + (i * 7 + n) % 90 for i in range(length)] for n in range(3)]
    exact = ReferenceEngine(spec).run(batch(texts))
    computed = engines.load(spec, chosen, threads=2).run(batch(texts))
    assert np.abs(exact - computed).max() <= 2e-6
    assert np.abs(np.square(computed).sum(axis=1) - 1).max() <= 1e-6


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_each_pooling_equals_the_yardstick(tmp_path: Path, pooling: str, chosen: str) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "1_Pooling" / "config.json").write_text(
        f'{{"word_embedding_dimension": 32, "pooling_mode_cls_token": {str(pooling == "cls").lower()},'
        f' "pooling_mode_mean_tokens": {str(pooling == "mean").lower()}}}'
    )
    spec = models.load_spec(folder)
    assert spec.pooling == pooling
    texts = [[2, 17, 30, 44, 3], [2, 9, 3]]
    computed = run_each(engines.load(spec, chosen), texts)
    np.testing.assert_allclose(computed, ReferenceEngine(spec).run(batch(texts)), atol=5e-6)


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize(
    ("precision", "least_cosine", "most_difference"), [("f32", 0.9999999, 2e-6), ("bf16", 0.9999, 5e-3)]
)
def test_the_default_model_is_as_close_to_the_yardstick_as_promised(
    default_spec: models.ModelSpec,
    yardstick: tuple[list[list[int]], Vectors],
    precision: str,
    least_cosine: float,
    most_difference: float,
    chosen: str,
) -> None:
    if precision not in NATIVE:
        pytest.skip(f"the processor has no native {precision}")
    texts, exact = yardstick
    computed = run_each(engines.load(default_spec, chosen, Precision(precision), threads=2), texts)
    assert (exact * computed).sum(axis=1).min() >= least_cosine
    assert np.abs(exact - computed).max() <= most_difference


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_texts_bits_do_not_depend_on_its_batch(
    default_spec: models.ModelSpec, precision: Precision, threads: int, chosen: str
) -> None:
    loaded = engines.load(default_spec, chosen, precision, threads)
    assert loaded.reproducible
    texts = random_texts(80, 80, vocabulary=30000)
    alone = run_each(loaded, texts)
    for seed in range(2):
        for indices in batches_of(loaded, texts, seed):
            together = loaded.run(batch([texts[i] for i in indices]))
            assert together.tobytes() == alone[indices].tobytes()


@pytest.mark.parametrize("chosen", OURS)
def test_a_texts_bits_do_not_depend_on_the_number_of_threads(
    default_spec: models.ModelSpec, chosen: str
) -> None:
    texts = random_texts(40, 80, vocabulary=30000)
    one, two = (run_each(engines.load(default_spec, chosen, NATIVE[0], threads), texts) for threads in (1, 2))
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("chosen", OURS)
def test_an_engine_may_be_called_from_many_threads(tiny_folder: Path, chosen: str) -> None:
    loaded = engines.load(models.load_spec(tiny_folder), chosen, threads=2)
    texts = random_texts(60, 60)
    alone = run_each(loaded, texts)
    with ThreadPoolExecutor(8) as pool:
        for expected, row in zip(alone, pool.map(lambda text: loaded.run(batch([text])), texts), strict=True):
            assert row[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("chosen", OURS)
def test_a_bucket_is_never_shorter_than_its_text_and_grows_with_it(tiny_folder: Path, chosen: str) -> None:
    loaded = engines.load(models.load_spec(tiny_folder), chosen)
    buckets = [loaded.bucket(length) for length in range(1, 1025)]
    assert all(bucket >= length for length, bucket in enumerate(buckets, 1))
    assert buckets == sorted(buckets)


def test_kernels_fill_nothing_up_and_share_a_bucket_among_texts_of_twice_the_length(
    tiny_folder: Path,
) -> None:
    loaded = engines.load(models.load_spec(tiny_folder), "native")
    assert sorted({loaded.bucket(length) for length in range(1, 1025)}) == [32, 64, 128, 256, 512, 1024]
    assert [loaded.computed(tokens) for tokens in (1, 17, 1000)] == [1, 17, 1000]


@pytest.mark.parametrize("chosen", OURS)
def test_memory_stays_bounded_whatever_shapes_batches_have(
    default_spec: models.ModelSpec, chosen: str
) -> None:
    if chosen == "native":
        engines.skip_without_kernels(NATIVE[0])
    # In a process of its own: this one already holds other engines.
    code = (
        "import numpy as np, pathlib, random, sys\n"
        "from senryu import engine, models\n"
        "from senryu.types import Batch\n"
        "spec = models.load_spec(pathlib.Path(sys.argv[1]))\n"
        "precision = engine.choose_precision('auto')\n"
        "loaded = engine.load(spec, precision=precision, threads=2, engine=sys.argv[2])\n"
        "rng = random.Random(0)\n"
        "buckets = range(16, 257, 16)\n"
        "for _ in range(2):\n"
        "    for _ in range(80):\n"
        "        bucket = rng.choice(buckets)\n"
        "        n = rng.randint(1, 512 // bucket)\n"
        "        lengths = np.array([rng.randint(bucket - 15, bucket) for _ in range(n)], np.int32)\n"
        "        loaded.run(Batch(np.ones(lengths.sum(), np.int32), lengths))\n"
        "    print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmRSS')))\n"
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from /proc")
    done = subprocess.run(
        [sys.executable, "-c", code, str(default_spec.folder), chosen],
        capture_output=True,
        text=True,
        check=True,
    )
    halfway, end = map(int, done.stdout.split())  # KiB
    assert end < 400 * 1024
    assert end - halfway < 100 * 80  # less than 100 KiB a batch


def test_a_precision_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "processor_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(SettingError, match=r"'bf16' is not native .*; it has f32"):
        engine.choose_precision("bf16")
    assert engine.choose_precision("auto") is Precision.F32


def damaged(folder: Path, tensor: str, value: np.ndarray | None) -> Path:
    """Write the folder's weights again with one tensor changed, added, or left out."""
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {
        name: np.frombuffer(
            data[8 + length + entry["data_offsets"][0] : 8 + length + entry["data_offsets"][1]], "<f4"
        ).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }
    if value is None:
        del tensors[tensor]
    else:
        tensors[tensor] = value
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        ("encoder.layer.1.output.dense.bias", None, "'encoder.layer.1.output.dense.bias' is missing"),
        ("encoder.layer.9.extra", np.zeros(3, np.float32), "'encoder.layer.9.extra'"),
        ("encoder.layer.0.output.dense.weight", np.zeros((3, 5), np.float32), "do not fit config.json"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, tensor: str, value: np.ndarray | None, message: str, chosen: str
) -> None:
    spec = models.load_spec(damaged(make_model(tmp_path / "m"), tensor, value))
    with pytest.raises(ModelError, match=r"model\.safetensors") as refusal:
        engines.load(spec, chosen)
    assert message in str(refusal.value)


@pytest.mark.parametrize("chosen", OURS)
@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_truncated_weights_are_refused(tmp_path: Path, keep: int, chosen: str) -> None:
    folder = make_model(tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        engines.load(models.load_spec(folder), chosen)


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    config = (folder / "config.json").read_text().replace('"bert"', '"mamba"')
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError, match="'mamba'"):
        engine.load(models.load_spec(folder), precision=Precision.F32, threads=1)
