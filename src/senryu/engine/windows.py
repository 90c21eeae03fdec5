"""Static int8: the window that an input of linear layers is rounded in, and layers made to fit it.

Activations become u8 by a window per channel, whose shift and scale go into the weights (after SmoothQuant,
arXiv:2211.10438); weights become i8 by a scale per output. A channel that a few tokens stretch has several columns,
each for a part of its window (a thermometer code). Knows numbers; no file and no graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from senryu.engine.kernels import COLUMNS, WORD

# How much of a channel's spread is smoothed into the weights, 0 to 1; measured in docs/decisions/0007-int8.md
SMOOTHING = 0.8

LEVELS = 256
# NOTE: of a channel's middle, at least 1e-3: narrower, and low and high may be one number in float16.
NARROWEST = 2.0**-8

# How many columns a split adds, and where it is worth them: at most so much of the predicted noise remains.
# More than half of the kernels' panel gained nothing; see decision 0007.
MOST_ADDED, ADDED_SHARE = COLUMNS // 2, 1 / 16
SPLIT_NOISE = 2 / 3


@dataclass(frozen=True, slots=True)
class Columns:
    """What a layer reads of an input: for each column its channel, and the part of that channel's window."""

    channel: NDArray[np.intp]  # ascending
    low: NDArray[np.float32]
    width: NDArray[np.float32]

    @property
    def copy(self) -> NDArray[np.intp]:
        """Return which column of its channel each is, from 0."""
        places: NDArray[np.intp] = np.arange(len(self.channel)) - np.searchsorted(self.channel, self.channel)
        return places


@dataclass(frozen=True, slots=True)
class Window:
    """What one layer's input is quantised by, and what it was given there; low < high."""

    low: NDArray[np.float32]  # [inputs]
    high: NDArray[np.float32]  # [inputs]
    copies: NDArray[np.intp]  # [inputs], the columns of each channel, one at least
    given: NDArray[np.float32]  # [columns], the mean of each as it is rounded, from its own low
    lost: NDArray[np.float32]  # [inputs], what rounding takes away from the mean of each channel

    @property
    def is_split(self) -> bool:
        """Tell whether a channel has several columns."""
        return len(self.given) > len(self.low)

    @property
    def columns(self) -> Columns:
        """Return the columns, those of a channel side by side from its low to its high."""
        channel = np.repeat(np.arange(len(self.low)), self.copies)
        width = ((self.high - self.low) / self.copies).astype(np.float32)[channel]
        whole = Columns(channel, self.low[channel], width)
        return replace(whole, low=whole.low + whole.copy.astype(np.float32) * width)


def as_stored(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Round numbers to float16.

    NOTE: what is computed from a calibration must not depend on whether it was read from a file.
    """
    return values.astype("<f2").astype(np.float32)


def at_mean(
    low: NDArray[np.floating],
    high: NDArray[np.floating],
    mean: NDArray[np.floating],
    copies: NDArray[np.intp] | None = None,
) -> Window:
    """Return a window of which no more is known than the mean of each channel."""
    low, high = as_stored(low), as_stored(high)
    copies = np.ones(len(low), np.intp) if copies is None else copies
    columns = Window(low, high, copies, np.zeros(int(copies.sum()), np.float32), np.zeros_like(low)).columns
    given = np.clip(as_stored(mean)[columns.channel] - columns.low, 0, columns.width)
    return Window(low, high, copies, as_stored(given), np.zeros_like(low))


def window(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    weights: Sequence[NDArray[np.float32]],
    *,
    may_split: bool = False,
) -> Window:
    """Return the window of an input, of which each channel was seen between `low` and `high`, [inputs] each.

    `weights`: [outputs, inputs] of all layers that read it. A channel whose spread is great, or whose weights are
    small, is given a wider window, and so a coarser step; the weights take up the difference. `may_split`: whether
    there may be several columns a channel.
    """
    middle, seen = (low + high) / 2, np.maximum(high - low, 1e-6)
    spread = np.maximum(seen, np.median(seen))  # what was hardly used may be by a text that was not seen
    copies = _copies(spread, weights) if may_split else np.ones(len(low), np.intp)
    widths = _smoothed(spread / copies, weights) * copies
    widths = np.maximum(widths, np.maximum(np.abs(middle), 1e-3) * NARROWEST)
    room, above = widths - (high - low), _share_above(low, high)
    return at_mean(low - room * (1 - above), high + room * above, middle, copies)


def _share_above(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Return where a window has room beyond what was seen: as far above as a middling channel reaches above 0."""
    up, down = (float(np.median(np.maximum(end, 0))) for end in (high, -low))
    return up / (up + down) if up + down else 0.5


def _smoothed(spread: NDArray[np.float64], weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    largest = np.max([np.abs(weight).max(axis=0) for weight in weights], axis=0).astype(np.float64)
    widths = spread**SMOOTHING / np.maximum(largest, 1e-8) ** (1 - SMOOTHING)
    smoothed: NDArray[np.float64] = widths * (spread / widths).max()  # the least that holds every channel
    return smoothed


def _copies(spread: NDArray[np.float64], weights: Sequence[NDArray[np.float32]]) -> NDArray[np.intp]:
    """Return the columns of each channel: one more, again and again, for what makes most noise."""
    ones = np.ones(len(spread), np.intp)
    added = min(MOST_ADDED, int(len(spread) * ADDED_SHARE)) // WORD * WORD
    loudness = spread * np.sqrt(np.sum([np.square(weight).sum(axis=0) for weight in weights], axis=0))
    copies = ones.copy()
    for _ in range(added):
        copies[np.argmax(loudness / copies)] += 1
    before, after = (noise(_smoothed(spread / each, weights), weights) for each in (ones, copies))
    return copies if after <= SPLIT_NOISE * before else ones


def noise(widths: NDArray[np.floating], weights: Sequence[NDArray[np.float32]]) -> float:
    """Predict the noise of layers' outputs: a step's variance by channel, through the squares of its weights."""
    variances = np.square(widths.astype(np.float64) / (LEVELS - 1)) / 12
    return max(float((np.square(weight, dtype=np.float64) @ variances).mean()) for weight in weights)


def observed(of: Window, codes: NDArray[np.float64], mean: NDArray[np.float64]) -> Window:
    """Return a window with what was seen through it: each column's mean in levels, and each channel's own mean."""
    columns = of.columns
    given = codes * columns.width / (LEVELS - 1)
    held = of.low + np.bincount(columns.channel, given, len(of.low))
    return replace(of, given=as_stored(given), lost=as_stored(mean - held))


# ---- layers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QuantisedLinear:
    """q · (codes · scales)ᵀ + bias, where q is the input's columns at 256 levels between 0 and `step`."""

    codes: NDArray[np.int8]  # [outputs, columns]
    scales: NDArray[np.float32]  # [outputs, 1]
    bias: NDArray[np.float32]  # [outputs]


def step(of: Window) -> float:
    """Return the greatest width of a column, which all of a window are scaled to."""
    return float(of.columns.width.max())


def quantise(weight: NDArray[np.float32], bias: NDArray[np.float32] | None, of: Window) -> QuantisedLinear:
    """Make a layer's weight, [outputs, inputs], and its bias fit an input that was quantised by its window."""
    columns = of.columns
    shares = (columns.width / np.float32(step(of))).astype(np.float64)  # [columns], at most 1
    weights = weight[:, columns.channel]
    scaled = weights * shares
    scales = np.maximum(np.abs(scaled).max(axis=1, keepdims=True), 1e-12) / 127
    # NOTE: a channel's columns make up for each other: full, they are their weight as nearly as one code can be.
    exact, copy = scaled / scales, columns.copy
    codes = np.clip(np.round((copy + 1) * exact) - np.round(copy * exact), -127, 127)
    # What rounding moves the mean output by, of the inputs and of the weights, taken back (arXiv:1906.04721, 4.2).
    moved = (weights - codes * scales / shares) @ of.given.astype(np.float64)
    whole = weight @ (of.low.astype(np.float64) + of.lost) + moved + (0.0 if bias is None else bias)
    return QuantisedLinear(codes.astype(np.int8), scales.astype(np.float32), whole.astype(np.float32))
