"""What this machine can do at most: matrix products alone, at given shapes, by the library that runs the models.

Knows shapes, precision and threads; nothing of models and texts, nor of what its figures are compared with.
"""

from __future__ import annotations

import queue
import sys
from typing import Any

import numpy as np

from senryu.types import Precision

# NOTE: keeps openvino's import off the network and the home folder, as senryu.engine.openvino says in full.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402

# Products there and back in one run: enough that reading the input and reducing the output cost next to nothing.
DEPTH = 2


class MatrixProducts:
    """Products of `tokens` rows with weights [inputs, outputs] and back, with nothing between them."""

    def __init__(
        self, inputs: int, outputs: int, *, tokens: int, precision: Precision, threads: int, streams: int = 1
    ) -> None:
        """Build and compile; up to `streams` runs go side by side and share the threads."""
        properties = {
            "INFERENCE_PRECISION_HINT": precision.value,
            "EXECUTION_MODE_HINT": "PERFORMANCE",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        compiled = ov.Core().compile_model(_chain(inputs, outputs), "CPU", properties)
        self.flops = 4 * DEPTH * tokens * inputs * outputs  # of one run
        self._rows = np.random.default_rng(0).standard_normal((tokens, inputs), np.float32)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())

    def run(self) -> float:
        """Compute all products and return the greatest number of the last; blocks, from any thread."""
        request = self._requests.get()
        try:
            request.infer([self._rows], share_inputs=True)
            return float(request.get_output_tensor(0).data)
        finally:
            self._requests.put(request)


def _chain(inputs: int, outputs: int) -> ov.Model:
    rng = np.random.default_rng(1)
    rows = op.parameter([-1, inputs], np.float32)
    x = rows
    for shape in [(outputs, inputs), (inputs, outputs)] * DEPTH:
        # NOTE: scaled so that the numbers stay near 1: products of subnormal or infinite ones have other speeds.
        weight = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[1]))
        x = op.matmul(x, op.constant(weight), transpose_a=False, transpose_b=True)
    greatest = op.reduce_max(x, op.constant(np.array([0, 1], np.int32)), keep_dims=False)
    return ov.Model([greatest], [rows], "peak")
