"""Runs a model in f32 over texts, and notes what each linear layer is given: the windows of static int8.

Knows graphs and batches; what a window is and how it is kept is int8.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senryu.engine.int8 import Calibration, Window, weights_of, window
from senryu.engine.model import Model
from senryu.engine.openvino import lay_out
from senryu.engine.openvino_ops import OpenVinoOps, op, ov
from senryu.errors import ModelError
from senryu.models import ModelSpec
from senryu.types import Batch, Ids

_BATCH_TOKENS = 4096


class _Inputs(OpenVinoOps):
    """Notes the input of every linear layer over tokens."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.readers: dict[int, tuple[Any, dict[str, None]]] = {}

    def linear(self, name: str, x: Any, **how: Any) -> Any:
        self.readers.setdefault(id(x), (x, {}))[1][name] = None
        return super().linear(name, x, **how)


class _Seen:
    """The least, the greatest and the mean of each channel of one input."""

    def __init__(self) -> None:
        self.low: NDArray[np.float64] = np.array(np.inf)
        self.high: NDArray[np.float64] = np.array(-np.inf)
        self.total: NDArray[np.float64] = np.array(0.0)

    def add(self, low: NDArray[Any], high: NDArray[Any], total: NDArray[Any]) -> None:
        self.low = np.minimum(self.low, low)
        self.high = np.maximum(self.high, high)
        self.total = self.total + total


def calibrate(spec: ModelSpec, texts: Sequence[Ids], threads: int) -> Calibration:
    """Return the windows over the texts' token ids. Raises ModelError for files that do not fit."""
    model = Model(spec)
    ops = _Inputs(model.weights, spec.max_seq_length)
    _describe(model, ops)
    inputs = list(ops.readers.values())
    seen = _observe(ops, [x for x, _ in inputs], texts, threads)
    tokens = sum(map(len, texts))
    windows: dict[str, Window] = {}
    for (_, names), of in zip(inputs, seen, strict=True):
        weights = [model.weights[f"{name}.weight"] for name in names]
        windows |= dict.fromkeys(names, window(of.low, of.high, of.total / tokens, weights))
    return Calibration(
        model=spec.id,
        weights=weights_of(spec),
        texts=len(texts),
        tokens=tokens,
        texts_sha256=hashlib.sha256(b"".join(ids.astype("<i4").tobytes() for ids in texts)).hexdigest(),
        windows=windows,
    )


def _describe(model: Model, ops: _Inputs) -> None:
    try:
        model.encoder(ops)  # NOTE: without the modules behind the pooling: those are given a row a text
    except RuntimeError as error:
        problem = str(error).strip().splitlines()[-1].strip(" -.")
        raise ModelError(f"{model.weights.path}: its shapes do not fit config.json: {problem}.") from None


def _observe(ops: _Inputs, inputs: Sequence[Any], texts: Sequence[Ids], threads: int) -> list[_Seen]:
    first = np.array([0], np.int32)
    outputs = [
        reduce(x, op.constant(first), keep_dims=False)
        for x in inputs
        for reduce in (op.reduce_min, op.reduce_max, op.reduce_sum)
    ]
    graph = ov.Model(outputs, list(ops.inputs.values()), "calibration")
    properties = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    request = ov.Core().compile_model(graph, "CPU", properties).create_infer_request()
    seen = [_Seen() for _ in inputs]
    for batch in _batches(texts):
        request.infer(lay_out(batch, fill=False))
        found = [np.array(request.get_output_tensor(i).data, np.float64) for i in range(len(outputs))]
        for index, one in enumerate(seen):
            one.add(*found[3 * index : 3 * index + 3])
    return seen


def _batches(texts: Sequence[Ids]) -> list[Batch]:
    batches: list[list[Ids]] = []
    tokens = 0
    for ids in sorted(texts, key=len):
        if not batches or tokens + len(ids) > _BATCH_TOKENS:
            batches.append([])
            tokens = 0
        batches[-1].append(ids)
        tokens += len(ids)
    return [Batch(np.concatenate(part), np.array([len(ids) for ids in part], np.int32)) for part in batches]
