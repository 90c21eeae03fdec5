"""Windows of int8, and those of several columns a channel: what they hold, and that a plan computes what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from senryu.engine import windows
from senryu.engine.kernels import NotComputed
from senryu.engine.windows import Window, as_stored, at_mean
from small_plans import SmallPlan, singles

INNER, ROWS = 72, 40
COPIES = np.ones(INNER, np.intp)
COPIES[[3, 40]] = 4, 2
GELU = (-0.2, 16.0)
Array = NDArray[np.float32]
Describe = Callable[[Any], Any]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


TENSORS = {
    "table.weight": normal(ROWS, 12),
    "up.weight": normal(INNER, 12, seed=1),
    "gate.weight": normal(INNER, 12, seed=2),
    "gate.bias": normal(INNER, seed=3),
    "down.weight": normal(20, INNER, seed=4),
    "down.bias": normal(20, seed=5),
    "other.weight": normal(20, INNER, seed=6),
}


def of_range(low: float, high: float, copies: NDArray[np.intp] = COPIES) -> Window:
    ends = (np.full(INNER, end, np.float32) for end in (low, high, 0.3))
    return at_mean(*ends, copies)


# ---- what a window is ---------------------------------------------------------------------------------------


def test_a_channels_columns_share_its_window_without_a_gap() -> None:
    of = of_range(-1, 7)
    columns = of.columns
    assert of.is_split
    assert len(columns.channel) == INNER + 4
    for channel in (3, 40, 41):
        mine = columns.channel == channel
        ends = [*columns.low[mine], of.high[channel]]
        np.testing.assert_allclose(np.diff(ends), columns.width[mine], rtol=1e-6)
        assert ends[0] == of.low[channel]
        assert list(columns.copy[mine]) == list(range(COPIES[channel]))


def test_a_channel_that_outshouts_the_others_is_given_columns() -> None:
    low, high = np.full(384, -0.2), np.full(384, 2.0)
    weight = normal(64, 384)
    alike = windows.window(low, high, [weight], may_split=True)
    assert not alike.is_split
    high[17] = 60.0
    assert not windows.window(low, high, [weight]).is_split
    of = windows.window(low, high, [weight], may_split=True)
    assert of.copies[17] == of.copies.max() > 10
    assert len(of.given) == of.copies.sum() == 384 + 24  # a sixteenth, a multiple of four
    assert (of.low <= low + 1e-3).all()
    assert (of.high >= high - 0.05).all()
    assert windows.noise(
        of.columns.width, [weight[:, of.columns.channel]]
    ) < windows.SPLIT_NOISE * windows.noise(alike.columns.width * 30, [weight])


def test_what_was_hardly_used_has_the_room_of_a_middling_channel() -> None:
    low, high = np.full(32, -0.2), np.full(32, 2.0)
    high[5] = -0.1
    of = windows.window(low, high, [np.ones((4, 32), np.float32)])
    assert of.high[5] - of.low[5] == pytest.approx(2.2, rel=0.01)
    assert of.high[5] > 1.5  # above, where the others reach to


def test_full_columns_amount_to_their_weight_as_nearly_as_one_code() -> None:
    copies = np.ones(INNER, np.intp)
    copies[3] = 29
    of = of_range(0, 8, copies)
    weight = normal(20, INNER, seed=7)
    made = windows.quantise(weight, None, of)
    mine = of.columns.channel == 3
    full = (made.codes * made.scales)[:, mine].sum(axis=1)
    exact = weight[:, 3] * (of.high[3] - of.low[3]) / windows.step(of)
    assert (np.abs(full - exact) <= 1.01 * made.scales[:, 0] / 2).all()


def test_what_rounding_takes_from_the_mean_is_in_the_bias() -> None:
    """Of inputs that stand at one place each, as an activation's zeros do, and never in the middle of two levels."""
    of = of_range(-0.2, 6, np.ones(INNER, np.intp))
    scale = np.float32(255) / of.columns.width
    x = np.abs(normal(INNER, seed=8)) + 0.013
    codes = np.clip(np.round((x - of.low) * scale), 0, 255).astype(np.float64)
    weight = normal(20, INNER, seed=9)
    seen = windows.observed(of, codes, x.astype(np.float64))

    def error(window: Window) -> float:
        made = windows.quantise(weight, None, window)
        given = (
            codes @ made.codes.T.astype(np.float64) * made.scales[:, 0] * windows.step(of) / 255 + made.bias
        )
        return float(np.abs(given - weight.astype(np.float64) @ x).max())

    assert error(seen) < 2e-3 < error(of)


# ---- what a plan makes of it --------------------------------------------------------------------------------


def dense(ops: Any) -> Any:
    x = ops.gather("table", ops.input_ids())
    return ops.linear("down", ops.activation("gelu", ops.linear("gate", x)))


def gated(ops: Any) -> Any:
    x = ops.gather("table", ops.input_ids())
    gate = ops.activation("gelu", ops.linear("gate", x))
    return ops.linear("down", ops.multiply(gate, ops.linear("up", x, bias=False)))


def inner(describe: Describe) -> Describe:
    """What the layer `down` of a description reads."""

    class Until:
        def __init__(self, ops: Any) -> None:
            self._ops = ops

        def __getattr__(self, name: str) -> Any:
            return getattr(self._ops, name)

        def linear(self, name: str, x: Any, **how: Any) -> Any:
            return x if name == "down" else self._ops.linear(name, x, **how)

    return lambda ops: describe(Until(ops))


@pytest.mark.parametrize(("describe", "low", "high"), [(dense, *GELU), (gated, -100.0, 120.0)])
def test_a_plan_with_a_split_window_computes_what_its_columns_say(
    tmp_path: Path, describe: Describe, low: float, high: float
) -> None:
    of = of_range(low, high)
    plan = SmallPlan(tmp_path, TENSORS, describe, windows={"down": of})
    given = plan.run(singles(ROWS))
    x = SmallPlan(tmp_path, TENSORS, inner(describe)).run(singles(ROWS)).astype(np.float64)
    columns, made = of.columns, windows.quantise(TENSORS["down.weight"], TENSORS["down.bias"], of)
    levels = np.clip(
        np.rint((x[:, columns.channel] - columns.low) * (255 / columns.width.astype(np.float64))), 0, 255
    )
    expected = (
        levels @ made.codes.T.astype(np.float64) * made.scales[:, 0] * (windows.step(of) / 255) + made.bias
    )
    # An input between two levels may go to either.
    one_level = np.abs(made.codes).max() * made.scales.max() * windows.step(of) / 255
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1.1 * one_level)
    assert np.median(np.abs(given - expected)) < 1e-4
    error = np.abs(given - plan.exact(singles(ROWS)))
    assert error.mean() < 0.05 * np.abs(given).mean()


def test_a_split_channel_is_finer_by_its_columns(tmp_path: Path) -> None:
    """Where one channel alone counts, 16 columns leave a small part of the error that one leaves."""
    tensors = TENSORS | {"down.weight": np.zeros((20, INNER), np.float32)}
    tensors["down.weight"][:, 3] = normal(20, seed=7)
    errors = []
    for count in (1, 17):
        copies = np.ones(INNER, np.intp)
        copies[3] = count
        plan = SmallPlan(tmp_path, tensors, dense, windows={"down": of_range(-1, 60, copies)})
        errors.append(np.abs(plan.run(singles(ROWS)) - plan.exact(singles(ROWS))).mean())
    assert errors[1] < errors[0] / 4


@pytest.mark.parametrize("why", ["a table", "an activation apart", "two readers", "the result", "no word"])
def test_a_split_window_that_no_layers_rows_can_make_is_refused(tmp_path: Path, why: str) -> None:
    copies = COPIES.copy()

    def describe(ops: Any) -> Any:
        x = ops.gather("table", ops.input_ids())
        if why == "a table":
            return ops.linear("gate", x)
        wide = ops.linear("gate", x)
        if why == "an activation apart":
            wide = ops.scale(wide, 2.0)
        below = ops.linear("down", wide)
        if why == "two readers":
            return ops.add(below, ops.linear("other", ops.normalize(wide), bias=False))
        return wide if why == "the result" else below

    if why == "no word":
        copies[3] = 3
    made = at_mean(np.zeros(12), np.ones(12), np.zeros(12), np.array([5] + [1] * 11))
    of = {"gate": made} if why == "a table" else {"down": of_range(-1, 1, copies)}
    with pytest.raises(NotComputed, match="a window is split"):
        SmallPlan(tmp_path, TENSORS, describe, windows=of)


def test_numbers_as_stored_are_those_of_float16() -> None:
    numbers = normal(100)
    assert (as_stored(numbers) == numbers.astype(np.float16).astype(np.float32)).all()
