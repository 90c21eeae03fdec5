"""The engine over our own kernels: which models and processors it takes, and that nothing around a text touches it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engines
from compiler import PROBE
from senryu import engine, models
from senryu.engine import int8, kernels, machine
from senryu.engine.calibration import calibrate
from senryu.errors import EngineError, ModelError, SettingError
from senryu.models import ModelSpec
from senryu.types import Batch, Precision, Vectors
from test_encoders import FAMILIES, golden, model_of
from test_engine import batch, run_each
from tiny import make_from_shapes, make_model

AVX2 = frozenset({"avx", "avx2", "fma", "f16c"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
VNNI = AVX512 | {"avx512_vnni"}
BF16 = VNNI | {"avx512_bf16"}
LENGTHS = (1, 2, 3, 5, 6, 7, 12, 13, 15, 16, 17, 31, 47, 63, 64, 65, 100, 128, 150, 160)
TEXTS = [[5 + (7 * i + 13 * n) % 90 for i in range(n)] for n in LENGTHS]
PRECISIONS = list(Precision)


@pytest.fixture(scope="module")
def loaded_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Precision], engine.Engine]:
    """Engines of two threads, by family and precision."""

    @cache
    def load(family: str, precision: Precision) -> engine.Engine:
        engines.skip_without_kernels(precision)
        spec = model_of(tmp_path_factory.mktemp("family"), family)
        if precision is Precision.INT8:
            texts = [np.array(ids, np.int32) for ids in TEXTS]
            (spec.folder / int8.FILE).write_text(calibrate(spec, texts, threads=2).dumps(), "utf-8")
        return engines.load(spec, "native", precision, threads=2)

    return load


@pytest.fixture
def tiny(tmp_path: Path) -> engine.Engine:
    return engines.load(models.load_spec(make_model(tmp_path / "m")), "native", threads=2)


# ---- bits ---------------------------------------------------------------------------------------------------

PLACES = st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=12)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3"])
def test_a_text_has_the_same_bits_at_every_place_of_every_batch(
    loaded_of: Callable[[str, Precision], engine.Engine], family: str, precision: Precision
) -> None:
    loaded = loaded_of(family, precision)
    alone = run_each(loaded, TEXTS)

    @settings(max_examples=40, deadline=None)
    @given(PLACES)
    def check(chosen: list[int]) -> None:
        assert loaded.run(batch([TEXTS[index] for index in chosen])).tobytes() == alone[chosen].tobytes()

    check()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_ran_before_in_the_same_memory_leaves_nothing(
    loaded_of: Callable[[str, Precision], engine.Engine], precision: Precision
) -> None:
    loaded = loaded_of("modernbert", precision)
    long, short = batch(TEXTS), batch(TEXTS[2:5])
    before = loaded.run(short), loaded.run(long)
    for _ in range(4):  # each of the two threads' memory is used in turn
        assert loaded.run(short).tobytes() == before[0].tobytes()
        assert loaded.run(long).tobytes() == before[1].tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_batches_that_run_at_the_same_time_do_not_touch_each_other(
    loaded_of: Callable[[str, Precision], engine.Engine], precision: Precision
) -> None:
    loaded = loaded_of("bert", precision)
    batches = [batch(TEXTS[start::step]) for step in (1, 2, 5) for start in range(4)] * 8
    expected = [loaded.run(each).tobytes() for each in batches]
    with ThreadPoolExecutor(4) as pool:
        assert [rows.tobytes() for rows in pool.map(loaded.run, batches)] == expected


def test_the_array_of_a_batch_may_lie_anyhow(tiny: engine.Engine) -> None:
    expected = tiny.run(batch([[2, 9, 3], [2, 17, 30, 3]]))
    ids, lengths = np.array([2, 9, 3, 2, 17, 30, 3]), np.array([3, 4])
    assert tiny.run(Batch(ids, lengths)).tobytes() == expected.tobytes()
    strided = np.repeat(ids, 2).astype(np.int32)[::2], np.repeat(lengths, 3).astype(np.int32)[::3]
    assert tiny.run(Batch(*strided)).tobytes() == expected.tobytes()


# ---- what is refused ----------------------------------------------------------------------------------------


def test_nothing_outside_a_table_is_ever_read(tiny: engine.Engine) -> None:
    rows = tiny._model.weights.shape("embeddings.word_embeddings.weight")[0]
    assert tiny.run(batch([[2, rows - 1, 3]])).shape == (1, 32)
    for outside in (rows, 2**31 - 1, -1, -(2**31)):
        with pytest.raises(EngineError, match=f"the model reads .* ids from 0 to {rows - 1}"):
            tiny.run(batch([[2, 9, 3], [2, outside, 3]]))
    assert tiny.run(batch([[5] * 64])).shape == (1, 32)
    with pytest.raises(EngineError, match=r"1 to 65 tokens, 66 together.*; the model reads texts of 1 to 64"):
        tiny.run(batch([[5], [5] * 65]))


@pytest.mark.parametrize("lengths", [[3, 0], [2, 2], [4], [-1, 4]])
def test_lengths_that_are_not_the_texts_are_refused(tiny: engine.Engine, lengths: list[int]) -> None:
    with pytest.raises(EngineError):
        tiny.run(Batch(np.array([2, 9, 3], np.int32), np.array(lengths, np.int32)))


def test_a_closed_engine_may_be_closed_again(tiny: engine.Engine) -> None:
    tiny.run(batch([[2, 9, 3]]))
    tiny.close()
    tiny.close()


# ---- which engine is taken ----------------------------------------------------------------------------------


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[[frozenset[str]], None]:
    def pretend(flags: frozenset[str]) -> None:
        for module in (machine, kernels):
            monkeypatch.setattr(module, "processor_flags", lambda: flags)

    return pretend


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "senryu_kernels.so")


TABLE = [
    (AVX2 - {"avx2"}, ("openvino", "openvino", "openvino")),
    (AVX2 - {"fma"}, ("openvino", "openvino", "openvino")),
    (AVX2, ("native", "openvino", "native")),
    (AVX512 - {"avx512bw"}, ("native", "openvino", "native")),
    (AVX512, ("native", "openvino", "openvino")),
    (VNNI, ("native", "openvino", "native")),
    (BF16, ("native", "native", "native")),
    (BF16 | {"amx_bf16", "amx_int8"}, ("native", "openvino", "openvino")),
    (AVX2 | {"avx_vnni"}, ("native", "openvino", "openvino")),
]


@pytest.mark.parametrize(("flags", "expected"), TABLE, ids=range(len(TABLE)))
def test_auto_takes_the_kernels_where_the_processor_runs_them_and_has_nothing_faster(
    tiny_folder: Path,
    processor: Callable[[frozenset[str]], None],
    flags: frozenset[str],
    expected: tuple[str, ...],
) -> None:
    engines.skip_without_kernels()
    spec = models.load_spec(tiny_folder)
    processor(flags)
    order = (Precision.F32, Precision.BF16, Precision.INT8)
    assert tuple(engine.choose_engine(spec, precision) for precision in order) == expected


def test_int8_is_offered_where_our_kernels_alone_make_it_faster(
    processor: Callable[[frozenset[str]], None], request: pytest.FixtureRequest
) -> None:
    engines.skip_without_kernels()
    processor(AVX2)
    assert engine.choose_precision("int8") is Precision.INT8
    assert engine.choose_precision("auto") is Precision.F32
    request.getfixturevalue("no_library")
    with pytest.raises(SettingError, match=r"'int8' is not native .*; it has f32\.$"):
        engine.choose_precision("int8")


def test_on_an_older_processor_openvino_computes(
    tiny_folder: Path, processor: Callable[[frozenset[str]], None], caplog: pytest.LogCaptureFixture
) -> None:
    processor(AVX2 - {"avx2"})
    spec = models.load_spec(tiny_folder)
    assert engine.load(spec, precision=Precision.F32, threads=1).name == "openvino"
    assert caplog.messages == []  # nothing is missing that it could run
    with pytest.raises(OSError, match="nothing for a processor without AVX2 and FMA"):
        kernels.library()
    with pytest.raises(SettingError, match=r"engine: .* AVX2 and FMA, .* Take 'auto' or 'openvino'\.$"):
        engine.load(spec, precision=Precision.F32, threads=1, engine="native")


@pytest.mark.usefixtures("no_library")
def test_without_a_library_openvino_computes_and_that_is_said(
    tiny_folder: Path, processor: Callable[[frozenset[str]], None], caplog: pytest.LogCaptureFixture
) -> None:
    processor(AVX512)
    spec = models.load_spec(tiny_folder)
    assert not kernels.run(Precision.F32)
    assert engine.load(spec, precision=Precision.F32, threads=1).name == "openvino"
    (said,) = caplog.messages
    assert "OpenVINO computes it, slower than our own kernels would" in said
    assert "senryu_kernels.so" in said
    assert engine.load(spec, precision=Precision.F32, threads=1, engine="openvino").name == "openvino"
    assert caplog.messages == [said]  # who asks for OpenVINO lacks nothing
    with pytest.raises(SettingError, match=r"engine: .* senryu_kernels\.so, .* Take 'auto' or 'openvino'\.$"):
        engine.load(spec, precision=Precision.F32, threads=1, engine="native")


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"no library"])
@pytest.mark.usefixtures("no_library")
def test_a_library_that_cannot_be_loaded_is_none(content: bytes) -> None:
    kernels.LIBRARY.write_bytes(content)
    assert not kernels.run(Precision.F32)


def test_a_library_of_other_sources_is_none(no_library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    built = Path(kernels.__file__).with_name("senryu_kernels.so")
    if not built.exists():
        pytest.skip("no library is built here")
    shutil.copy(built, kernels.LIBRARY)
    monkeypatch.setattr(kernels, "VERSION", kernels.VERSION + 1)
    with pytest.raises(OSError, match=r"senryu_kernels\.so: was made of other sources; build it again"):
        kernels.library()
    assert not kernels.run(Precision.F32)


ODD = {
    "an odd head": ({"num_attention_heads": 8}, {}, r"a head of attention has 3 channels"),
    "inputs in no whole words": (
        {"intermediate_size": 42},
        {
            f"encoder.layer.{layer}.{name}": shape
            for layer in range(2)
            for name, shape in (
                ("intermediate.dense.weight", [42, 24]),
                ("intermediate.dense.bias", [42]),
                ("output.dense.weight", [24, 42]),
            )
        },
        r"the layer 'encoder\.layer\.0\.output\.dense' has 42 inputs",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_model_of_odd_widths_is_left_to_openvino(tmp_path: Path, kind: str) -> None:
    engines.skip_without_kernels()
    content = golden("bert")
    config, shapes, message = ODD[kind]
    spec = models.load_spec(
        make_from_shapes(tmp_path / "m", content["config"] | config, content["shapes"] | shapes)
    )
    loaded = engine.load(spec, precision=Precision.F32, threads=1)
    assert loaded.name == "openvino"
    exact = engine.load(spec, precision=Precision.F32, threads=1, engine="reference").run(batch(TEXTS))
    np.testing.assert_allclose(run_each(loaded, TEXTS), exact, atol=1e-5)
    with pytest.raises(SettingError, match=rf"engine: {message}.* Take 'auto' or 'openvino'\.$"):
        engine.load(spec, precision=Precision.F32, threads=1, engine="native")


def test_a_bad_file_is_no_reason_for_another_engine(tmp_path: Path) -> None:
    engines.skip_without_kernels()
    folder = make_model(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        engine.load(models.load_spec(folder), precision=Precision.F32, threads=1)


# ---- compilers ----------------------------------------------------------------------------------------------


def compilers() -> list[str]:
    """Return a gcc and a clang that know the kernels' types, as far as there are such."""
    command = ["-x", "c", "-std=c11", "-ffreestanding", "-fsyntax-only", "-"]

    def knows(name: str) -> bool:
        done = subprocess.run([name, *command], input=PROBE.encode(), capture_output=True)
        return done.returncode == 0

    return [name for name in ("gcc", "clang") if shutil.which(name) and knows(name)]


def vectors_by(library: Path, specs: list[ModelSpec], monkeypatch: pytest.MonkeyPatch) -> list[Vectors]:
    """Compute every model's texts by a library, in every precision that runs."""
    monkeypatch.setattr(kernels, "LIBRARY", library)
    found = []
    for spec in specs:
        for precision in PRECISIONS:
            if precision is Precision.INT8 and not (spec.folder / int8.FILE).exists():
                continue
            if kernels.run(precision):
                found.append(engines.load(spec, "native", precision).run(batch(TEXTS)))
    return found


def test_every_compiler_makes_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_library: None
) -> None:
    names = compilers()
    if len(names) < 2:
        pytest.skip(f"needs gcc and clang, and here is {' and '.join(names) or 'neither'}")
    if not kernels.instruction_set():
        pytest.skip("the processor does not run the kernels")
    specs = [model_of(tmp_path, family) for family in FAMILIES]
    if machine.multiplies_int8():
        texts = [np.array(ids, np.int32) for ids in TEXTS]
        (specs[0].folder / int8.FILE).write_text(calibrate(specs[0], texts, threads=1).dumps(), "utf-8")
    made = []
    for name in names:
        folder = tmp_path / name
        shutil.copytree(Path(kernels.__file__).parent, folder, ignore=shutil.ignore_patterns("*.so"))
        subprocess.run([sys.executable, folder / "build.py", "--cc", name], check=True, env=dict(os.environ))
        made.append(vectors_by(folder / "senryu_kernels.so", specs, monkeypatch))
    assert len(made[0]) >= len(FAMILIES)
    for first, second in zip(*made, strict=True):
        assert first.tobytes() == second.tobytes()
