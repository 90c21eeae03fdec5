"""Runs a model in f32 over texts, and notes what each linear layer is given: the windows of static int8.

Knows graphs and batches; what a window is and how it is kept is int8.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senryu.engine.int8 import Calibration, weights_of
from senryu.engine.kernels import NotComputed
from senryu.engine.model import Model
from senryu.engine.native_ops import NativeOps
from senryu.engine.openvino import lay_out
from senryu.engine.openvino_ops import OpenVinoOps, op, ov
from senryu.engine.plan import splittable
from senryu.engine.windows import LEVELS, Window, observed, window
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


# How an input is reduced over tokens, by batch and from batch to batch.
_TOTAL = (op.reduce_sum, np.add)
_RANGE_AND_TOTAL = ((op.reduce_min, np.minimum), (op.reduce_max, np.maximum), _TOTAL)


def calibrate(spec: ModelSpec, texts: Sequence[Ids], threads: int) -> Calibration:
    """Return the windows over the texts' token ids. Raises ModelError for files that do not fit."""
    model = Model(spec)
    ops = _Inputs(model.weights, spec.max_seq_length)
    _describe(model, ops)
    windows = _windows(model, ops, texts, threads)
    return Calibration(
        model=spec.id,
        weights=weights_of(spec),
        texts=len(texts),
        tokens=sum(map(len, texts)),
        texts_sha256=hashlib.sha256(b"".join(np.asarray(ids, "<i4").tobytes() for ids in texts)).hexdigest(),
        windows=windows,
    )


def _windows(model: Model, ops: _Inputs, texts: Sequence[Ids], threads: int) -> dict[str, Window]:
    """Choose each input's window by what is seen there, then look through it."""
    inputs, tokens = list(ops.readers.values()), sum(map(len, texts))
    ranges = _observe(ops, [(x, *how) for x, _ in inputs for how in _RANGE_AND_TOTAL], texts, threads)
    may_split = _splittable(model)
    chosen = []
    for (_, names), low, high in zip(inputs, ranges[::3], ranges[1::3], strict=True):
        weights = [model.weights[f"{name}.weight"] for name in names]
        chosen.append(window(low, high, weights, may_split=may_split.issuperset(names)))
    read = [(_codes(x, of), *_TOTAL) for (x, _), of in zip(inputs, chosen, strict=True)]
    codes = _observe(ops, read, texts, threads)
    windows: dict[str, Window] = {}
    for (_, names), of, levels, total in zip(inputs, chosen, codes, ranges[2::3], strict=True):
        windows |= dict.fromkeys(names, observed(of, levels / tokens, total / tokens))
    return windows


def _splittable(model: Model) -> frozenset[str]:
    ops = NativeOps(model.weights, *model.sizes)
    try:
        return splittable(ops.values, model.vectors(ops))
    except NotComputed:
        return frozenset()


def _codes(x: Any, of: Window) -> Any:
    """Return the levels of an input's columns as the layers read them."""
    columns = of.columns
    scale = np.float32(LEVELS - 1) / columns.width
    read = op.gather(x, op.constant(columns.channel.astype(np.int32)), op.constant(np.int32(1)))
    moved = op.multiply(op.subtract(read, op.constant(columns.low[None])), op.constant(scale[None]))
    return op.clamp(op.round(moved, "half_to_even"), 0, LEVELS - 1)


def _describe(model: Model, ops: _Inputs) -> None:
    try:
        model.encoder(ops)  # NOTE: without the modules behind the pooling: those are given a row a text
    except RuntimeError as error:
        problem = str(error).strip().splitlines()[-1].strip(" -.")
        raise ModelError(f"{model.weights.path}: its shapes do not fit config.json: {problem}.") from None


def _observe(
    ops: _Inputs, wanted: Sequence[tuple[Any, Any, np.ufunc]], texts: Sequence[Ids], threads: int
) -> list[NDArray[np.float64]]:
    """Return nodes, [tokens, channels] each, reduced over the tokens of all texts."""
    first = op.constant(np.array([0], np.int32))
    outputs = [reduce(x, first, keep_dims=False) for x, reduce, _ in wanted]
    graph = ov.Model(outputs, list(ops.inputs.values()), "calibration")
    properties = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    request = ov.Core().compile_model(graph, "CPU", properties).create_infer_request()
    found: list[NDArray[np.float64]] = []
    for batch in _batches(texts):
        request.infer(lay_out(batch, fill=False))
        given = [np.array(request.get_output_tensor(i).data, np.float64) for i in range(len(outputs))]
        joins = [join for *_, join in wanted]
        found = [join(a, b) for join, a, b in zip(joins, found, given, strict=True)] if found else given
    return found


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
