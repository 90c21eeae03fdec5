"""`senryu quantize`: which texts it takes, what it measures, when it refuses, and that its file is always the same."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import engines
from engines import OURS
from senryu import bench, calibration, engine, models, quantization
from senryu.calibration import FEWEST_TEXTS, HELD_BACK, MOST_TEXTS
from senryu.cli import main
from senryu.config import DEFAULT_MODEL
from senryu.engine import int8, kernels, machine
from senryu.errors import SetupError
from senryu.models import ModelSpec
from senryu.tokenizer import Tokenizer
from senryu.types import Precision, Task, Truncate
from test_exported import EXPORTED, write
from tiny import make_model

needs_int8 = pytest.mark.skipif(
    not machine.multiplies_int8(),
    reason="the processor has no instructions for products of 8-bit integers (VNNI, AMX)",
)
LINES = [f"text number {number} about the old pond" for number in range(100)]
Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def _short_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SLOT_SECONDS", 0.002)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "tiny")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("SENRYU_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(quantization, "CANDIDATES", 2)  # each is an engine more to load

    def run(*args: str | Path) -> Result:
        return CliRunner().invoke(main, ["quantize", "--seconds", "0", *map(str, args)])

    return run


def texts_in(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


class Silent:
    """Progress that counts."""

    def __init__(self) -> None:
        self.steps = self.done = 0

    def start(self, steps: int) -> None:
        self.steps = steps

    def step(self, doing: str) -> None:
        self.done += 1


# ---- texts --------------------------------------------------------------------------------------------------


def test_the_built_in_texts_are_many_different_ones() -> None:
    texts = calibration.built_in()
    every = [*texts.calibrating, *texts.held_back]
    assert 300 <= len(every) == len(set(every)) == texts.found
    assert len(texts.held_back) == len(every) // HELD_BACK
    for part in (texts.calibrating, texts.held_back):
        assert any(len(text) < 5 for text in part)
        assert any(len(text.split()) > 150 for text in part)
        assert any(text.isupper() and len(text) > 20 for text in part)
        assert len({ord(char) >> 8 for text in part for char in text}) > 12  # scripts and signs
        assert any("http" in text for text in part)
        assert any("{" in text for text in part)


def test_equal_texts_and_empty_lines_count_once_and_not_at_all(tmp_path: Path) -> None:
    path = texts_in(tmp_path / "t.txt", "\ufeff" + "\r\n\n".join(LINES[:80] * 2) + "\n \t\n")
    texts = calibration.read_texts(path)
    assert sorted([*texts.calibrating, *texts.held_back]) == sorted(LINES[:80])
    assert (texts.found, texts.cut, len(texts.held_back)) == (80, False, 20)


def test_of_very_many_texts_some_are_used_spread_over_all(tmp_path: Path) -> None:
    path = texts_in(tmp_path / "t.txt", "\n".join(f"text {number}" for number in range(100_000)))
    texts = calibration.read_texts(path)
    used = sorted(int(text.split()[1]) for text in (*texts.calibrating, *texts.held_back))
    assert len(used) == MOST_TEXTS
    assert set(np.diff(used)) == {50}
    assert texts.found == 100_000


def test_of_an_enormous_file_whole_lines_of_its_beginning_are_read(tmp_path: Path) -> None:
    line = "héllo " * 1000
    path = tmp_path / "t.txt"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{number:06d} {line}\n" for number in range(3000))
    assert path.stat().st_size > calibration.MOST_BYTES
    texts = calibration.read_texts(path)
    assert texts.cut
    assert len({len(text) for text in (*texts.calibrating, *texts.held_back)}) == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has no text"),
        (b" \n\n\t\n", "has no text"),
        (b"one text\n", f"counted once, in the first 16 MiB); at least {FEWEST_TEXTS} are needed"),
        (b"the same\n" * 1000, "has 1 text "),
        ("\n".join(LINES[: FEWEST_TEXTS - 1]).encode(), f"has {FEWEST_TEXTS - 1} texts"),
        (b"x" * (17 << 20), "has no text"),
        (b"\x7fELF\x02\x01\x01\0\0\0", "is a binary file"),
        ("\n".join(LINES).encode("utf-16"), "is a binary file"),
        ("\n".join(LINES).encode() + b"\ncaf\xe9\n", "line 101 is not UTF-8"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_calibrated_with_is_refused(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = texts_in(tmp_path / "texts.txt", content)
    with pytest.raises(SetupError) as refusal:
        calibration.read_texts(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert complaint in str(refusal.value)


@needs_int8
def test_the_command_refuses_such_a_file_in_one_line(command: Command, folder: Path, tmp_path: Path) -> None:
    path = texts_in(tmp_path / "texts.txt", "one text\n")
    result = command(folder, "--data", path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"senryu: {path}: has 1 text ")
    assert result.stderr.count("\n") == 1
    assert not (folder / int8.FILE).exists()


def test_a_missing_file_of_texts_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"nowhere\.txt: cannot be read: No such file"):
        calibration.read_texts(tmp_path / "nowhere.txt")


# ---- what is measured ---------------------------------------------------------------------------------------


def test_what_is_unchanged_has_no_loss() -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    loss = quantization.measure_loss(vectors, vectors)
    assert loss == int8.Loss(40, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert quantization.measure_loss(vectors, 3 * vectors) == loss


def test_a_single_bad_text_shows_in_the_least_and_not_in_the_mean() -> None:
    vectors = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    given = vectors.copy()
    given[7] *= -1
    loss = quantization.measure_loss(vectors, given)
    assert loss.cosine_min == -1
    assert loss.cosine_mean == 0.99
    assert loss.cosine_p1 == 1
    assert 0.9 < loss.rank_correlation < 1
    assert 0.9 < loss.top10_overlap < 1


def test_vectors_of_other_texts_keep_no_neighbour_but_by_chance() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((400, 64)).astype(np.float32) for _ in range(2))
    loss = quantization.measure_loss(first, second)
    assert loss.top10_overlap < 0.1
    assert abs(loss.rank_correlation) < 0.1


# ---- the command --------------------------------------------------------------------------------------------


@needs_int8
def test_the_file_lies_in_the_models_folder_and_the_model_runs_with_it(
    command: Command, folder: Path
) -> None:
    result = command(folder)
    assert result.exit_code == 0, result.stderr
    cells = [row.split() for row in result.stdout.splitlines() if re.match(r"(f32|int8) +[01]\.", row)]
    rows = {name: rest for name, *rest in cells}
    made = int8.read(folder / int8.FILE, int8.weights_of(models.load_spec(folder)))
    assert made.loss is not None
    assert rows["int8"][0] == f"{made.loss.cosine_mean:.5f}"
    assert rows["f32"][0] == "1.00000"
    assert f"senryu serve --model {folder} --precision int8" in result.stderr
    loaded = engine.load(models.load_spec(folder), precision=Precision.INT8, threads=1)
    assert loaded.loss == made.loss
    assert made.fingerprint in loaded.signature
    assert made.fingerprint in result.stdout


@needs_int8
def test_the_same_model_and_texts_give_the_same_bytes(command: Command, folder: Path, tmp_path: Path) -> None:
    data = texts_in(tmp_path / "texts.txt", "\n".join(LINES))
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert command(folder, "--data", data, "--output", first, "--threads", "1").exit_code == 0
    assert command(folder, "--data", data, "--output", second, "--threads", "2").exit_code == 0
    assert first.read_bytes() == second.read_bytes()
    assert not (folder / int8.FILE).exists()
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == ["first.json", "second.json"]


@needs_int8
def test_json_says_what_the_table_says(command: Command, folder: Path) -> None:
    result = command(folder, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    made = json.loads((folder / int8.FILE).read_text())
    assert report["file"] == str(folder / int8.FILE)
    assert report["problem"] is None
    assert report["measured"][-1]["precision"] == "int8"
    assert report["measured"][-1]["loss"] == made["loss"]
    assert report["measured"][0]["precision"] == "f32"
    assert report["texts"]["tokens"] == made["calibration"]["tokens"]
    left = {name for window in made["inputs"] for name in window["layers"]}
    assert left.isdisjoint(report["left"])
    for each in report["measured"]:
        assert each["lone_text"]["seconds"] > 0
        assert all(batch["tokens_per_second"] > 0 for batch in each["batches"])


@needs_int8
def test_a_loss_below_the_floor_is_shown_and_not_written(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "FLOOR_MEAN", 1.0)
    result = command(folder)
    assert result.exit_code == 1
    assert "int8 " in result.stdout
    assert "not written, because int8 would cost too much: the mean cosine to f32 is 0.99" in result.stderr
    assert "and 1.0 is the least" in result.stderr
    assert not (folder / int8.FILE).exists()
    forced = command(folder, "--force")
    assert forced.exit_code == 0
    assert "written although the mean cosine" in forced.stderr
    assert (folder / int8.FILE).exists()


@needs_int8
def test_the_layers_that_cost_most_are_left_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.load_spec(folder)
    texts = calibration.built_in()

    def quantised() -> quantization.Report:
        progress = Silent()
        report = quantization.quantise(spec, texts, threads=2, seconds=0, progress=progress)
        assert progress.done <= progress.steps
        return report

    some = quantised()
    assert some.left
    assert some.calibration.windows.keys().isdisjoint(some.left)
    monkeypatch.setattr(quantization, "CANDIDATES", 0)
    none = quantised()
    assert none.left == ()
    assert len(none.calibration.windows) == len(some.calibration.windows) + len(some.left) == 12
    assert error(some) < error(none)


def error(report: quantization.Report) -> float:
    assert report.calibration.loss is not None
    return 1 - report.calibration.loss.cosine_mean


@needs_int8
def test_only_a_part_of_many_texts_is_used_and_that_is_said(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MOST_TEXTS", 70)
    data = texts_in(tmp_path / "texts.txt", "\n".join(LINES))
    result = command(folder, "--data", data)
    assert f"{data}: 70 texts are used, spread evenly over the 100 that it has." in result.stderr


def test_a_processor_without_such_instructions_is_told_at_once(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (machine, kernels):
        monkeypatch.setattr(module, "processor_flags", lambda: frozenset({"sse4_2"}))
    result = command(folder)
    assert result.exit_code == 1
    assert "precision 'int8' is not native on this processor" in result.stderr


@needs_int8
def test_a_model_that_only_its_exported_graph_computes_is_refused(command: Command, folder: Path) -> None:
    (folder / "onnx").mkdir()
    shutil.copy(EXPORTED, folder / "onnx" / "model.onnx")
    write(folder, "config.json", model_type="unheard-of")
    result = command(folder)
    assert result.exit_code == 1
    assert f"{folder}: is computed by its exported graph, whose layers cannot be quantised" in result.stderr


# ---- where it is written ------------------------------------------------------------------------------------


@needs_int8
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    nowhere = command(folder, "--output", tmp_path / "nowhere" / "int8.json")
    assert f"there is no folder {tmp_path / 'nowhere'}; make it first." in nowhere.stderr
    a_folder = command(folder, "--output", tmp_path)
    assert f"{tmp_path}: is a folder" in a_folder.stderr
    weights = folder / "model.safetensors"
    before = weights.read_bytes()
    not_ours = command(folder, "--output", weights)
    assert f"{weights}: is there, and is no calibration" in not_ours.stderr
    assert weights.read_bytes() == before
    for result in (nowhere, a_folder, not_ours):
        assert result.exit_code == 1
        assert "calibrating" not in result.stderr


@needs_int8
@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser writes everywhere")
def test_a_models_folder_that_is_not_ours_to_write_is_told(command: Command, folder: Path) -> None:
    folder.chmod(0o555)
    try:
        result = command(folder)
    finally:
        folder.chmod(0o755)
    assert f"the folder {folder} cannot be written; name another file with --output" in result.stderr


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    made = int8.Calibration("m", {}, 1, 1, "", {})
    place = tmp_path / "int8.json"
    place.mkdir()
    with pytest.raises(SetupError, match=r"int8\.json: cannot be written"):
        quantization.write(made, place)
    assert list(tmp_path.iterdir()) == [place]


# ---- the default model --------------------------------------------------------------------------------------

SHIPPED = int8.SHIPPED / f"{DEFAULT_MODEL}.json"


@pytest.fixture(scope="module")
def default_spec(model_cache: Path) -> ModelSpec:
    return models.resolve(DEFAULT_MODEL, model_cache)


@pytest.mark.model
def test_the_shipped_calibration_is_for_the_models_weights_and_above_the_floor(
    default_spec: ModelSpec,
) -> None:
    shipped = int8.read(SHIPPED, int8.weights_of(default_spec))
    assert shipped.dumps() == SHIPPED.read_text("utf-8")
    assert shipped.loss is not None
    assert shipped.loss.cosine_mean >= quantization.FLOOR_MEAN
    assert shipped.loss.cosine_p1 >= quantization.FLOOR_P1
    assert shipped.texts == len(calibration.built_in().calibrating)


@pytest.mark.model
@needs_int8
def test_the_shipped_calibration_is_the_one_that_the_command_makes(
    default_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NOTE: the bytes are the same on one kind of processor; another rounds f32 otherwise, so here with a tolerance."""
    monkeypatch.setattr(quantization, "CANDIDATES", 2)  # none is left
    shipped = int8.read(SHIPPED, int8.weights_of(default_spec))
    made = quantization.quantise(
        default_spec, calibration.built_in(), threads=2, seconds=0, progress=Silent()
    ).calibration
    assert made.texts_sha256 == shipped.texts_sha256
    assert made.windows.keys() == shipped.windows.keys()
    for name, window in made.windows.items():
        assert (window.copies == shipped.windows[name].copies).all()
        for edge in ("low", "high"):
            a, b = getattr(window, edge), getattr(shipped.windows[name], edge)
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * np.abs(b).max())
    assert made.loss is not None
    assert shipped.loss is not None
    assert made.loss.cosine_mean == pytest.approx(shipped.loss.cosine_mean, abs=2e-4)
    assert made.loss.cosine_p1 == pytest.approx(shipped.loss.cosine_p1, abs=1e-3)


@pytest.mark.model
@needs_int8
@pytest.mark.parametrize("chosen", OURS)
def test_the_default_model_in_int8_keeps_what_its_calibration_states(
    default_spec: ModelSpec, chosen: str
) -> None:
    tokenizer = Tokenizer(default_spec)
    held_back = calibration.built_in().held_back
    tokens = tokenizer.encode_now(held_back, Task.SEARCH_DOCUMENT, Truncate.END)
    tokenizer.close()
    vectors = {}
    for precision in (Precision.F32, Precision.INT8):
        loaded = engines.load(default_spec, chosen, precision, threads=2)
        vectors[precision] = quantization.embed_together(loaded, tokens)
    stated = loaded.loss
    assert stated is not None
    measured = quantization.measure_loss(*vectors.values())
    assert measured.cosine_mean == pytest.approx(stated.cosine_mean, abs=2e-4)
    assert measured.top10_overlap == pytest.approx(stated.top10_overlap, abs=0.02)
