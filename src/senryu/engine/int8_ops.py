"""The operations with linear layers in static int8, where a calibration has a window for their input.

Knows how the graph writes a quantised layer so that the plug-in runs it in integers; the numbers are int8.py's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from senryu.engine.openvino_ops import Node, OpenVinoOps, op
from senryu.engine.weights import Weights
from senryu.engine.windows import LEVELS, Window, quantise, step


class Int8Ops(OpenVinoOps):
    """`OpenVinoOps` that multiplies in int8; attention and normalisation stay as they are."""

    def __init__(
        self, weights: Weights, positions: int, vocabulary: int, windows: Mapping[str, Window]
    ) -> None:
        super().__init__(weights, positions, vocabulary)
        self._windows = windows
        self._quantised: dict[tuple[int, int], tuple[Node, Node]] = {}

    def linear(self, name: str, x: Node, *, bias: bool = True, part: tuple[int, int] = (0, 1)) -> Node:
        window = self._windows.get(name)
        if window is None:
            return super().linear(name, x, bias=bias, part=part)
        weight = self._weights.share(f"{name}.weight", part)
        added = self._weights.share(f"{name}.bias", part) if bias else None
        layer = quantise(weight, added, window)
        codes = op.convert(op.constant(layer.codes), "f32")
        product = op.matmul(
            self._quantise(x, window),
            op.multiply(codes, op.constant(layer.scales)),
            transpose_a=False,
            transpose_b=True,
        )
        return op.add(product, op.constant(layer.bias))

    def _quantise(self, x: Node, window: Window) -> Node:
        """Quantise an input once for all layers that read it."""
        key = id(x), id(window)
        if key not in self._quantised:
            columns = window.columns
            read = x
            if window.is_split:
                read = op.gather(x, op.constant(columns.channel.astype(np.int32)), op.constant(np.int32(1)))
            ends = (np.array([[end]], np.float32) for end in (0.0, step(window)))
            bounds = [columns.low[None], (columns.low + columns.width)[None], *ends]
            quantised = op.fake_quantize(read, *(op.constant(bound) for bound in bounds), LEVELS)
            self._quantised[key] = quantised, x  # NOTE: keeps x, so that its id stays its own
        return self._quantised[key][0]
