"""Matrix products alone by OpenVINO: the machine's peak where it runs the models.

Knows graphs and streams; shapes and numbers are peak's.
"""

from __future__ import annotations

import queue
from typing import Any

import numpy as np

from senryu.engine.openvino_ops import op, ov
from senryu.engine.peak import flops, rows, weights
from senryu.types import Precision


class OpenVinoProducts:
    """Matrix products of `tokens` rows."""

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
        compiled = ov.Core().compile_model(_graph(inputs, outputs), "CPU", properties)
        self.flops = flops(inputs, outputs, tokens)
        self.streams = streams
        self._rows = rows(inputs, tokens)
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


def _graph(inputs: int, outputs: int) -> ov.Model:
    given = op.parameter([-1, inputs], np.float32)
    x = given
    for weight in weights(inputs, outputs):
        x = op.matmul(x, op.constant(weight), transpose_a=False, transpose_b=True)
    greatest = op.reduce_max(x, op.constant(np.array([0, 1], np.int32)), keep_dims=False)
    return ov.Model([greatest], [given], "peak")
