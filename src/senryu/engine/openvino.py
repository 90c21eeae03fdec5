"""OpenVINO on the processor: compiles the graph that a model's description makes, and runs it.

Knows padding, buckets, precision and threads; the graph's nodes are openvino_ops'.
"""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senryu.engine import int8
from senryu.engine.batches import prompt_lengths
from senryu.engine.int8_ops import Int8Ops
from senryu.engine.machine import between_products, multiplies_int8, native_precisions, processor_name
from senryu.engine.model import Model
from senryu.engine.openvino_ops import OpenVinoOps, ov
from senryu.errors import EngineError, ModelError, SettingError
from senryu.models import ModelSpec
from senryu.outputs import normalise
from senryu.types import Batch, Precision, Vectors

# Linear layers run over the tokens of all texts of a batch, end to end; attention runs over rows, one a text, padded
# to the next of these widths. NOTE: a width follows from the text alone, never from its batch: that is what makes bits
# reproducible. Other widths are other bits, so they are part of the signature.
# (up to this length, in steps of this width); measured in docs/decisions/0003-buckets.md
BUCKETS: tuple[tuple[int, int], ...] = ((256, 16), (512, 32), (1 << 30, 64))

# The tokens of a batch are filled up to the next of these counts (they decide no bits): each new count costs about as
# much as 15 tokens, each new kernel of it some milliseconds more.
TOKEN_STEPS: tuple[tuple[int, int], ...] = ((128, 16), (512, 32), (1 << 30, 64))

# Kernels kept per shape. Without a bound each new shape stays in memory for good.
KERNEL_CACHE_ENTRIES = 128


def bucket(length: int) -> int:
    """Return the row of attention that a text of `length` tokens is given."""
    return _next_step(length, BUCKETS)


def _next_step(count: int, steps: tuple[tuple[int, int], ...]) -> int:
    for up_to, width in steps:
        if count <= up_to:
            return -(-count // width) * width
    raise AssertionError(count)


class OpenVinoEngine:
    """One model compiled for the processor; up to `streams` batches run side by side."""

    name = "openvino"
    reproducible = True
    batch_seconds = 0.025

    def __init__(self, spec: ModelSpec, *, precision: Precision, threads: int) -> None:
        """Build and compile. Raises ModelError for files that do not fit, SettingError for the precision."""
        self.precision = precision
        # NOTE: streams of one thread each: they serve small batches faster than one stream of many threads, do not
        # wait for a thread whose processor is busy with something else, and leave no reduction to be split.
        self.streams = threads
        self._core = ov.Core()
        _check_native(self._core, precision)
        calibration = int8.find(spec) if precision is Precision.INT8 else None
        self.loss = calibration.loss if calibration else None
        self.signature = _signature(precision, calibration)
        self._include_prompt = spec.include_prompt
        self._model = Model(spec)  # NOTE: kept, because the graph reads tables where they lie in its files
        model = _build(self._model, spec, calibration)
        # Every property that could follow the host or the environment is set here.
        properties = {
            "INFERENCE_PRECISION_HINT": between_products(precision).value,
            "EXECUTION_MODE_HINT": "PERFORMANCE",
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNEL_CACHE_ENTRIES,
        }
        try:
            compiled = self._core.compile_model(model, "CPU", properties)
        except RuntimeError as error:
            path = self._model.weights.path
            raise ModelError(f"{path}: cannot be compiled: {_last_line(error)}") from None
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.streams):
            self._requests.put(compiled.create_infer_request())

    def bucket(self, length: int) -> int:
        return bucket(length)

    def computed(self, tokens: int) -> int:
        return _next_step(tokens, TOKEN_STEPS)

    def run(self, batch: Batch) -> Vectors:
        # NOTE: not `request.infer`: its conveniences hold the interpreter's lock for 0.2 ms.
        arrays = lay_out(batch)
        if not self._include_prompt:
            arrays.append(prompt_lengths(batch))
        tensors = [ov.Tensor(array, shared_memory=True) for array in arrays]
        request = self._requests.get()
        try:
            for index, tensor in enumerate(tensors):
                request.set_input_tensor(index, tensor)
            request.start_async()
            request.wait()
            return normalise(request.get_output_tensor(0).data)  # [B, D]
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed on a batch of {len(batch.lengths)}: {error}") from error
        finally:
            self._requests.put(request)

    def close(self) -> None:
        for _ in range(self.streams):
            self._requests.get()


_CAPABILITIES = {Precision.F32: "FP32", Precision.BF16: "BF16", Precision.INT8: "INT8"}


def _check_native(core: ov.Core, precision: Precision) -> None:
    native = (*native_precisions(), *((Precision.INT8,) if multiplies_int8() else ()))
    if precision not in native or _CAPABILITIES[precision] not in core.get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise SettingError(f"precision {precision.value!r} is not native on {processor_name()}.")


# NOTE: raise it with every change of nodes here, in openvino_ops, the encoders or int8: other nodes are other bits.
GRAPH = 2


def _signature(precision: Precision, calibration: int8.Calibration | None) -> str:
    windows = f" windows={calibration.fingerprint} {between_products(precision).value}" if calibration else ""
    return f"openvino-{ov.__version__} graph-{GRAPH} {precision.value}{windows} buckets={BUCKETS} {processor_name()}"


def _build(model: Model, spec: ModelSpec, calibration: int8.Calibration | None) -> ov.Model:
    ops = (
        Int8Ops(model.weights, *model.sizes, calibration.windows)
        if calibration
        else OpenVinoOps(model.weights, *model.sizes)
    )
    path = model.weights.path
    try:
        vectors = model.vectors(ops)
    except RuntimeError as error:
        raise ModelError(f"{path}: its shapes do not fit config.json: {_last_line(error)}") from None
    model.check_all_read()
    model.check_width(vectors.get_output_partial_shape(0)[1].get_length())
    return ov.Model([vectors], list(ops.inputs.values()), spec.id)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def lay_out(batch: Batch, *, fill: bool = True) -> list[NDArray[np.int32]]:
    """Return the arrays that INPUTS names; with `fill`, to the next of TOKEN_STEPS.

    Tokens that only fill up are id 0 at position 0, and nobody reads them.
    """
    lengths = batch.lengths
    tokens = len(batch.input_ids)
    places = np.arange(bucket(int(lengths.max())), dtype=np.int32)  # [L]
    is_token = places < lengths[:, None]  # [B, L]
    firsts = (np.cumsum(lengths, dtype=np.int32) - lengths)[:, None]
    input_ids, position_ids, tokens_places = np.zeros(
        (3, _next_step(tokens, TOKEN_STEPS) if fill else tokens), np.int32
    )
    input_ids[:tokens] = batch.input_ids
    position_ids[:tokens] = np.broadcast_to(places, is_token.shape)[is_token]
    tokens_places[:tokens] = np.flatnonzero(is_token)
    # NOTE: behind its own tokens a row repeats its first: masked, but it must be a number, and no other text's.
    slots = firsts + places * is_token  # [B, L]
    return [input_ids, position_ids, slots, tokens_places, lengths]
