"""`senryu bench` on a tiny model: what it counts, how it takes turns, and that its figures agree with each other."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, pairwise
from pathlib import Path
from threading import Barrier
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

from senryu import bench, engine, models
from senryu.cli import main
from senryu.engine import kernels
from senryu.engine.machine import native_precisions
from senryu.engine.peak import matrix_products, rows, weights
from senryu.errors import SettingError
from senryu.tokenizer import Tokenizer
from senryu.types import OutputType, Precision
from tiny import make_model

SVG = "{http://www.w3.org/2000/svg}"
DOCS = (Path(__file__).parents[1] / "docs" / "bench.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENRYU_HOME", str(tmp_path / "home"))


def run(*argv: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, argv)])


@pytest.fixture(scope="module")
def measured(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The JSON and the plot of one run, as short as it can be."""
    plot = tmp_path_factory.mktemp("bench") / "plot.svg"
    argv = ("--model", tiny_folder, "--precision", "f32", "--threads", 2, "--seconds", 0)
    result = run(*argv, "--json", "--plot", plot)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), plot


# ---- work -------------------------------------------------------------------------------------------------------


def test_the_work_of_a_token_is_two_a_weight_of_the_linear_layers(tmp_path: Path) -> None:
    spec = models.load_spec(make_model(tmp_path / "m", layers=3, hidden=64))
    square, wide, narrow = (64, 64), (256, 64), (64, 256)
    assert bench.linear_shapes(spec) == [square, square, square, square, wide, narrow] * 3
    assert bench.flops_per_token(bench.linear_shapes(spec)) == 3 * 2 * (4 * 64 * 64 + 2 * 64 * 256)


@pytest.mark.model
def test_the_default_model_needs_21_mflop_a_token(model_cache: Path) -> None:
    shapes = bench.linear_shapes(models.load_spec(model_cache / "all-minilm-l6-v2"))
    assert bench.flops_per_token(shapes) == 21_233_664
    assert "21,233,664" in DOCS


# ---- peak -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [*native_precisions(), Precision.INT8])
def test_every_library_computes_the_same_products(precision: Precision) -> None:
    if precision is Precision.INT8 and not kernels.run(precision):
        with pytest.raises(SettingError, match="int8"):
            next(matrix_products(32, 128, precision=precision, threads=2))
        return
    ways = list(matrix_products(32, 128, precision=precision, threads=2))
    assert len(ways) == kernels.run(precision) + 2 * (precision is not Precision.INT8)
    for way in ways:
        with ThreadPoolExecutor(2) as threads:
            greatest = set(threads.map(lambda _, way=way: way.run(), range(4)))
        tokens = 1024 if way.streams == 1 else 512
        assert way.flops == 2 * (2 * tokens * 32 * 128) * 2
        assert len(greatest) == 1
        assert greatest.pop() == pytest.approx(_greatest(tokens), rel=TOLERANCE[precision])


TOLERANCE = {Precision.F32: 1e-5, Precision.BF16: 0.02, Precision.INT8: 0.1}


def _greatest(tokens: int) -> float:
    product = rows(32, tokens).astype(np.float64)
    for weight in weights(32, 128):
        product = product @ weight.T
    return float(product.max())


def test_a_shape_that_our_kernels_cannot_take_is_measured_without_them() -> None:
    assert len(list(matrix_products(30, 128, precision=Precision.F32, threads=1))) == 2


def test_the_peak_weighs_each_shape_by_its_work(measured: tuple[dict[str, Any], Path]) -> None:
    report, _ = measured
    products = report["peak"]["products"]
    assert [each["shape"] for each in products] == [[32, 32], [32, 128]]
    assert [each["flops_per_token"] for each in products] == [2 * 2 * 4 * 32 * 32, 2 * 2 * 2 * 32 * 128]
    assert sum(each["flops_per_token"] for each in products) == report["flops_per_token"]
    seconds = sum(each["flops_per_token"] / each["flops_per_second"] for each in products)
    assert report["peak"]["tokens_per_second"] == pytest.approx(1 / seconds)
    assert report["peak"]["flops_per_second"] == pytest.approx(report["flops_per_token"] / seconds)


# ---- measuring --------------------------------------------------------------------------------------------------


class Turn:
    """A trial that notes whose turn it was."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self._name = name
        self._turns = turns

    def measure(self) -> None:
        self._turns.append(self._name)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_with_no_time_everything_is_measured_once(seconds: float) -> None:
    turns: list[str] = []
    bench.in_rounds([Turn(name, turns) for name in "abc"], seconds)
    assert turns == ["a", "b", "c"]


def test_measurements_take_turns() -> None:
    turns: list[str] = []
    bench.in_rounds([Turn(name, turns) for name in "abc"], 0.01)
    assert len(turns) > 6
    assert all(name == expected for name, expected in zip(turns, cycle("abc"), strict=False))


def test_as_many_runs_go_side_by_side_as_there_are_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SLOT_SECONDS", 0.0)
    meeting = Barrier(3, timeout=30)
    with ThreadPoolExecutor(4) as threads:
        rate = bench.Rate(meeting.wait, 10, 3, threads)
        rate.measure()
        rate.measure()
    assert rate.rounds == 2
    assert rate.rate > 0


def test_the_middle_rate_counts_and_the_one_that_warms_up_does_not() -> None:
    rates = iter([1e9, 5.0, 1.0, 100.0])

    class Given(bench.Rate):
        def _slot(self) -> float:
            return next(rates)

    with ThreadPoolExecutor(1) as threads:
        rate = Given(lambda: None, 1, 1, threads)
        for _ in range(3):
            rate.measure()
    assert rate.rate == 5.0
    assert rate.variation == pytest.approx((52.5 - 3.0) / 5.0)


# ---- the command ------------------------------------------------------------------------------------------------


def test_the_json_says_what_was_measured_and_on_what(
    measured: tuple[dict[str, Any], Path], tiny_folder: Path
) -> None:
    report, _ = measured
    assert report["model"] == tiny_folder.name
    chosen = engine.choose_engine(models.load_spec(tiny_folder), Precision.F32)
    assert (report["precision"], report["threads"], report["engine"]) == ("f32", 2, chosen)
    assert report["flops_per_token"] == 2 * 2 * (4 * 32 * 32 + 2 * 32 * 128)
    assert set(report) == set(re.findall(r"^\| `(\w+)` \|", DOCS, re.MULTILINE))


def test_every_length_that_the_model_reads_is_measured_in_every_batch(
    measured: tuple[dict[str, Any], Path],
) -> None:
    cells = measured[0]["throughput"]
    expected = [(length, batch) for length in (16, 32, 64) for batch in bench.BATCHES]
    assert [(cell["length"], cell["batch"]) for cell in cells] == expected


def test_shares_are_the_rates_over_the_peak(measured: tuple[dict[str, Any], Path]) -> None:
    report, _ = measured
    for cell in report["throughput"]:
        assert cell["rounds"] >= 1
        assert cell["tokens_per_second"] > 0
        peak = report["peak"]["tokens_per_second"]
        assert cell["share_of_peak"] == pytest.approx(cell["tokens_per_second"] / peak)


def test_the_latency_of_a_lone_query_is_told_by_type(measured: tuple[dict[str, Any], Path]) -> None:
    latency = measured[0]["latency"]
    assert [each["output_type"] for each in latency] == ["float", "int8"]
    for each in latency:
        assert each["queries"] >= 1
        assert 0 < each["p50_seconds"] <= each["p99_seconds"]


def test_a_lone_query_goes_the_whole_way_to_the_bytes_of_an_answer(tiny_folder: Path) -> None:
    spec = models.load_spec(tiny_folder)
    loaded = engine.load(spec, precision=Precision.F32, threads=1)
    query = bench.LoneQuery(spec, loaded, Tokenizer(spec), OutputType.INT8)
    answer = json.loads(query.answer())
    assert answer["usage"]["prompt_tokens"] == query.tokens
    codes = np.array(answer["data"][0]["embedding"])
    assert codes.shape == (32,)
    assert np.abs(codes).max() > 1
    assert np.array_equal(codes, np.round(codes))


def test_the_plot_is_svg_with_a_bar_per_rate_in_proportion(measured: tuple[dict[str, Any], Path]) -> None:
    report, plot = measured
    root = ElementTree.parse(plot).getroot()
    assert root.tag == f"{SVG}svg"
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    rates = [cell["tokens_per_second"] for cell in report["throughput"]]
    heights = [float(bar.attrib["height"]) for bar in bars]
    per_rate = [height / rate for height, rate in zip(heights, rates, strict=True)]
    tallest = max(range(len(rates)), key=rates.__getitem__)
    for height, rate in zip(heights, rates, strict=True):
        assert height == pytest.approx(rate * per_rate[tallest], abs=0.2)
    line, _ = [line for line in root.iter(f"{SVG}line") if line.attrib["class"] == "peak"]  # and the legend's
    bottom = float(bars[0].attrib["y"]) + heights[0]
    peak = report["peak"]["tokens_per_second"]
    assert bottom - float(line.attrib["y1"]) == pytest.approx(peak * per_rate[tallest], abs=0.5)


def test_the_ticks_of_the_plot_are_round_and_few(measured: tuple[dict[str, Any], Path]) -> None:
    _, plot = measured
    texts = ElementTree.parse(plot).getroot().iter(f"{SVG}text")
    ticks = [int((text.text or "").replace(",", "")) for text in texts if text.attrib["class"] == "right"]
    steps = {high - low for low, high in pairwise(ticks)}
    assert 4 <= len(ticks) <= 8
    assert len(steps) == 1
    assert re.fullmatch("[125]0*", str(steps.pop()))


def test_the_table_shows_each_rate_with_its_share(tiny_folder: Path) -> None:
    result = run("--model", tiny_folder, "--precision", "f32", "--seconds", 0)
    assert result.exit_code == 0, result.output
    shown = re.findall(r"^(16|32|64) +((?: *[\d,]+ +\d+%){4})\s*$", result.stdout, re.MULTILINE)
    assert [length for length, _ in shown] == ["16", "32", "64"]
    assert "GFLOP/s in matrix products alone (32 × 32: " in result.stdout
    assert re.search(r"^int8 +[\d.]+ ms +[\d.]+ ms +\d+", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--plot", "bench.png"], 2, "plots are SVG"),
        (["--plot", "nowhere/bench.svg"], 2, "there is no folder 'nowhere'"),
        (["--seconds", "-1"], 2, "--seconds"),
        (["--threads", "0"], 1, "--threads: '0' is not allowed"),
        (["--precision", "f64"], 1, "--precision: 'f64' is not allowed"),
        (["--model", "no-such-model"], 1, "'no-such-model' is neither in the catalog"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_measured(
    argv: list[str], code: int, message: str
) -> None:
    result = run(*argv)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert "measuring" not in result.stderr
