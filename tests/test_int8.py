"""Static int8: the calibration's file, how close every family stays to f32, and the same bits for the same text."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from engines import OURS
from senryu import engine, models
from senryu.engine import int8, windows
from senryu.engine.calibration import calibrate
from senryu.engine.int8 import Calibration, Loss
from senryu.engine.machine import multiplies_int8
from senryu.errors import ModelError
from senryu.models import ModelSpec
from senryu.types import Ids, Precision
from test_encoders import FAMILIES, change, cut, golden, model_of
from test_engine import batch, batches_of, run_each
from tiny import make_model

pytestmark = pytest.mark.skipif(
    not multiplies_int8(),
    reason="the processor has no instructions for products of 8-bit integers (VNNI, AMX)",
)
LOSS = Loss(16, 0.9991, 0.998, 0.997, 0.999, 0.97)


def texts_of(spec: ModelSpec, count: int, seed: int = 0) -> list[Ids]:
    rng = np.random.default_rng(seed)
    longest = min(150, spec.max_seq_length)
    lengths = rng.integers(1, longest, count)
    return [rng.integers(3, spec.config["vocab_size"], length, dtype=np.int32) for length in lengths]


def quantised(spec: ModelSpec, texts: list[Ids] | None = None) -> Calibration:
    """Calibrate a model and put the file where the engine looks."""
    made = calibrate(spec, texts or texts_of(spec, 60), threads=2)
    (spec.folder / int8.FILE).write_text(made.dumps(), "utf-8")
    return made


def loaded(
    spec: ModelSpec, precision: Precision = Precision.INT8, threads: int = 2, chosen: str = "auto"
) -> engine.Engine:
    if chosen == "auto":
        return engine.load(spec, precision=precision, threads=threads)
    return engines.load(spec, chosen, precision, threads)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return models.load_spec(make_model(tmp_path / "tiny"))


# ---- the file -----------------------------------------------------------------------------------------------


def test_a_calibration_read_back_is_the_one_written(spec: ModelSpec) -> None:
    made = quantised(spec)
    found = int8.read(spec.folder / int8.FILE, int8.weights_of(spec))
    assert found.dumps() == made.dumps()
    assert found.fingerprint == made.fingerprint
    assert loaded(spec).loss is None
    assert made.fingerprint in loaded(spec).signature


@pytest.mark.parametrize("chosen", OURS)
def test_the_engine_tells_the_loss_that_its_file_states(spec: ModelSpec, chosen: str) -> None:
    made = json.loads(quantised(spec).dumps())
    made["loss"] = {field: getattr(LOSS, field) for field in LOSS.__dataclass_fields__}
    rewrite(spec.folder / int8.FILE, made)
    assert loaded(spec, chosen=chosen).loss == LOSS
    assert loaded(spec, Precision.F32, chosen=chosen).loss is None


def rewrite(path: Path, content: dict[str, Any]) -> None:
    content["sha256"] = int8._checksum(content)
    path.write_text(json.dumps(content))


def test_a_calibration_with_the_same_texts_has_the_same_bytes(spec: ModelSpec, tmp_path: Path) -> None:
    texts = texts_of(spec, 60)
    copy = models.load_spec(Path(shutil.copytree(spec.folder, tmp_path / "copy" / spec.folder.name)))
    first = calibrate(spec, texts, threads=1).dumps()
    assert calibrate(spec, texts, threads=2).dumps() == first
    assert calibrate(copy, texts, threads=2).dumps() == first
    assert calibrate(spec, texts[1:], threads=2).dumps() != first


def with_outlier(spec: ModelSpec) -> ModelSpec:
    """Stretch one channel between a model's two feed-forward layers."""
    stretch = np.ones((128, 1), np.float32)
    stretch[7] = 30
    change(spec.folder, "encoder.layer.0.intermediate.dense.weight", lambda weight: weight * stretch)
    return models.load_spec(spec.folder)


def test_a_channel_that_stands_out_is_split_and_that_is_kept_in_the_file(spec: ModelSpec) -> None:
    spec = with_outlier(spec)
    made = quantised(spec)
    of = made.windows["encoder.layer.0.output.dense"]
    assert of.copies[7] > 1
    assert not made.windows["encoder.layer.0.intermediate.dense"].is_split  # a normalisation makes it
    path = spec.folder / int8.FILE
    read = int8.read(path, int8.weights_of(spec))
    assert (read.windows["encoder.layer.0.output.dense"].copies == of.copies).all()
    assert read.dumps() == made.dumps()


@pytest.mark.parametrize("value", [3, 0, -1, "many", 10**12])
def test_copies_that_do_not_fit_are_refused(spec: ModelSpec, value: Any) -> None:
    spec = with_outlier(spec)
    made = json.loads(quantised(spec).dumps())
    path = spec.folder / int8.FILE
    (entry,) = [each for each in made["inputs"] if "encoder.layer.0.output.dense" in each["layers"]]
    entry["copies"]["9"] = value
    path.write_text(json.dumps(made))
    with pytest.raises(ModelError, match="its checksum does not fit"):
        loaded(spec)
    rewrite(path, made)
    with pytest.raises(
        ModelError, match=r"a window's parts do not fit each other: .*output\.dense.*senryu quantize"
    ):
        loaded(spec)


@pytest.mark.parametrize("chosen", OURS)
def test_a_file_of_the_older_format_is_still_read(spec: ModelSpec, chosen: str) -> None:
    made = json.loads(quantised(spec).dumps())
    made["format"] = "senryu-int8-1"
    for entry in made["inputs"]:
        low, given, lost = (int8._decode(entry.pop(name)) for name in ("low", "given", "lost"))
        entry |= {"low": int8._encode(low), "mean": int8._encode(low + given + lost)}
    rewrite(spec.folder / int8.FILE, made)
    texts = [ids.tolist() for ids in texts_of(spec, 20, seed=5)]
    exact = run_each(loaded(spec, Precision.F32, chosen=chosen), texts)
    given = run_each(loaded(spec, chosen=chosen), texts)
    assert (exact * given).sum(axis=1).mean() >= 0.997


def cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2]


def change_a_window(content: bytes) -> bytes:
    made = json.loads(content)
    made["inputs"][0]["low"] = made["inputs"][1]["low"]
    return json.dumps(made).encode()


def change_the_loss(content: bytes) -> bytes:
    return json.dumps(json.loads(content) | {"loss": {"cosine_mean": 1.0}}).encode()


def another_format(content: bytes) -> bytes:
    return content.replace(int8.FORMAT.encode(), b"senryu-int8-99")


DAMAGES: list[tuple[Callable[[bytes], bytes], str]] = [
    (cut_off, "cannot be read as a calibration"),
    (change_a_window, "its checksum does not fit: it was changed or cut off"),
    (change_the_loss, "its checksum does not fit"),
    (another_format, f"its format is 'senryu-int8-99'; this version reads {' and '.join(int8.FORMATS)}"),
    (lambda _: b"", "cannot be read as a calibration"),
    (lambda _: b"[]", "cannot be read as a calibration"),
    (lambda _: b"\xff\x00\x9c", "cannot be read as a calibration"),
    (lambda _: b"{}", "cannot be read as a calibration"),
]


@pytest.mark.parametrize(("damage", "complaint"), DAMAGES)
def test_a_damaged_calibration_is_refused_with_the_file_and_the_remedy(
    spec: ModelSpec, damage: Callable[[bytes], bytes], complaint: str
) -> None:
    quantised(spec)
    path = spec.folder / int8.FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError) as refusal:
        loaded(spec)
    assert str(refusal.value).startswith(f"{path}: ")
    assert complaint in str(refusal.value)
    assert "senryu quantize" in str(refusal.value)


WRONG_PARTS = [
    *(({}, name) for name in ("model", "weights", "calibration", "inputs", "loss")),
    *(({"calibration": value}, "") for value in (None, [], "many", {"texts": 1})),
    *(({"inputs": value}, "") for value in (None, 3, [3], [{}], {"layers": []})),
    *(({"loss": value}, "") for value in (3, [1], {"cosine_mean": 0.9}, {"more": 1}, {"texts": "100"})),
]


@pytest.mark.parametrize(("changes", "missing"), WRONG_PARTS)
def test_a_calibration_that_fits_its_checksum_and_lacks_a_part_is_refused(
    spec: ModelSpec, changes: dict[str, Any], missing: str
) -> None:
    made = json.loads(quantised(spec).dumps()) | changes
    made.pop(missing, None)
    path = spec.folder / int8.FILE
    rewrite(path, made)
    with pytest.raises(ModelError, match=r"a part is missing|do not fit each other") as refusal:
        loaded(spec)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "senryu quantize" in str(refusal.value)


@pytest.mark.parametrize("name", ["low", "high", "given", "lost"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_window_that_is_not_of_finite_numbers_is_refused(spec: ModelSpec, name: str, value: float) -> None:
    made = json.loads(quantised(spec).dumps())
    numbers = int8._decode(made["inputs"][0][name]).copy()
    numbers[0] = value
    made["inputs"][0][name] = int8._encode(numbers)
    rewrite(spec.folder / int8.FILE, made)
    with pytest.raises(ModelError, match="a window's parts do not fit each other"):
        loaded(spec)


def test_a_damaged_calibration_does_not_stop_the_other_precisions(spec: ModelSpec) -> None:
    (spec.folder / int8.FILE).write_text("no JSON")
    assert loaded(spec, Precision.F32).run(batch([[2, 9, 3]])).shape == (1, 32)


def test_a_calibration_of_another_model_is_refused(spec: ModelSpec, tmp_path: Path) -> None:
    other = models.load_spec(make_model(tmp_path / "other", seed=1))
    quantised(other)
    shutil.copy(other.folder / int8.FILE, spec.folder)
    with pytest.raises(ModelError, match=r"was made for other weights, of 'other', than this model has"):
        loaded(spec)


def test_a_model_without_a_calibration_says_how_to_make_one(spec: ModelSpec) -> None:
    with pytest.raises(
        ModelError, match=r"tiny has no calibration for int8: `senryu quantize .*tiny` makes one"
    ):
        loaded(spec)


# ---- vectors ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """A model of one family, calibrated with all but the last 30 of its texts."""

    name: str
    spec: ModelSpec
    texts: list[Ids]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    spec = model_of(tmp_path_factory.mktemp("family"), request.param)
    texts = texts_of(spec, 80)
    assert quantised(spec, texts[:50]).windows
    return Family(request.param, spec, texts)


@pytest.mark.parametrize("chosen", OURS)
def test_every_family_stays_close_to_f32(family: Family, chosen: str) -> None:
    unseen = [ids.tolist() for ids in family.texts[50:]]
    exact = run_each(loaded(family.spec, Precision.F32, chosen=chosen), unseen)
    given = run_each(loaded(family.spec, chosen=chosen), unseen)
    cosines = (exact * given).sum(axis=1)
    assert cosines.mean() >= 0.997
    assert np.median(cosines) >= 0.999
    assert cosines.mean() < 0.9999999  # or nothing was quantised


@pytest.fixture(scope="module")
def all_split(family: Family) -> Calibration:
    """The family's calibration if every layer is split that can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "SPLIT_NOISE", np.inf)
        patch.setattr(windows, "ADDED_SHARE", 0.2)  # of few channels
        return calibrate(family.spec, family.texts[:50], threads=2)


@pytest.mark.parametrize("chosen", OURS)
def test_every_family_stays_close_where_all_is_split_that_can_be(
    family: Family, all_split: Calibration, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(of.is_split for of in all_split.windows.values())
    monkeypatch.setattr(int8, "find", lambda _: all_split)
    unseen = [ids.tolist() for ids in family.texts[50:]]
    exact = run_each(loaded(family.spec, Precision.F32, chosen=chosen), unseen)
    ready = loaded(family.spec, chosen=chosen)
    given = run_each(ready, unseen)
    assert (exact * given).sum(axis=1).mean() >= 0.997
    for indices in batches_of(ready, unseen, 0):
        assert ready.run(batch([unseen[i] for i in indices])).tobytes() == given[indices].tobytes()


@pytest.mark.parametrize("chosen", OURS)
def test_a_texts_bits_do_not_depend_on_its_batch_in_int8(family: Family, chosen: str) -> None:
    texts = [ids[:length] for ids in golden(family.name)["ids"] for length in (1, 3, 17, 62, 64, 80, 150)]
    one = loaded(family.spec, threads=1, chosen=chosen)
    alone = run_each(one, texts)
    assert np.isfinite(alone).all()
    for seed, ready in enumerate((one, loaded(family.spec, threads=2, chosen=chosen))):
        for indices in batches_of(ready, texts, seed):
            together = ready.run(batch([texts[i] for i in indices]))
            assert together.tobytes() == alone[indices].tobytes()


@pytest.mark.parametrize("chosen", OURS)
def test_a_second_quantisation_gives_the_same_bits(spec: ModelSpec, chosen: str) -> None:
    rng = random.Random(0)
    texts = [[rng.randrange(5, 90) for _ in range(rng.randint(1, 60))] for _ in range(40)]
    quantised(spec)
    before = run_each(loaded(spec, chosen=chosen), texts)
    (spec.folder / int8.FILE).unlink()
    quantised(spec)
    assert run_each(loaded(spec, chosen=chosen), texts).tobytes() == before.tobytes()


@pytest.mark.parametrize("chosen", OURS)
def test_other_texts_to_calibrate_with_give_another_fingerprint(spec: ModelSpec, chosen: str) -> None:
    quantised(spec, texts_of(spec, 40, seed=1))
    before = loaded(spec, chosen=chosen).signature
    quantised(spec, texts_of(spec, 40, seed=2))
    assert loaded(spec, chosen=chosen).signature != before


@pytest.mark.parametrize("chosen", OURS)
def test_what_the_calibration_never_saw_is_still_a_vector(spec: ModelSpec, chosen: str) -> None:
    quantised(spec, [np.array([2, 7, 3], np.int32)])
    vectors = run_each(loaded(spec, chosen=chosen), [[1] * 64, list(range(60)), [4]])
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("value", [0.0, 1e-6, 3.1, -1000.0])
def test_a_channel_that_never_changes_has_a_window_all_the_same(value: float) -> None:
    low, high = np.array([-1.0, value, 0.5]), np.array([1.0, value, 2.5])
    weight = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
    of = windows.window(low, high, [weight])
    assert (of.low < of.high).all()
    assert (of.low <= low + 1e-7).all()  # as float16 has it
    assert (of.high >= high - 1e-7).all()
    made = windows.quantise(weight, None, of)
    assert np.isfinite(made.scales).all()
    assert np.isfinite(made.bias).all()


def test_files_that_do_not_fit_each_other_are_refused(spec: ModelSpec) -> None:
    cut(spec.folder, "encoder.layer.0.intermediate.dense.weight", np.s_[:, :-1])
    with pytest.raises(ModelError, match=r"model\.safetensors: its shapes do not fit config\.json: [^\n]+$"):
        calibrate(spec, texts_of(spec, 3), threads=1)
