"""OpenVINO on the processor: builds the graph from safetensors by the encoder's description, and runs it.

Knows graph nodes, padding, buckets, precision and threads. The only module that imports openvino.
"""

from __future__ import annotations

import queue
import sys
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from senryu import encoders
from senryu.engine.machine import native_precisions, processor_name
from senryu.engine.weights import Weights
from senryu.errors import EngineError, ModelError, SettingError
from senryu.models import ModelSpec, Pooling
from senryu.types import Batch, Precision, Vectors

# NOTE: this module of openvino writes two files under the user's home and looks up an analytics host when it is
# imported. None in its place stops both; nothing of ours needs the model converter that it holds.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402

Node: TypeAlias = Any

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


# Everything the graph is handed, all int32. T: tokens of the batch, filled up; B: texts; L: the width of their rows.
INPUTS: dict[str, list[int]] = {
    "input_ids": [-1],  # [T]
    "position_ids": [-1],  # [T], each token's place in its own text
    "slots": [-1, -1],  # [B, L], which token stands there
    "places": [-1],  # [T], where each token stands in the rows, laid end to end
    "lengths": [-1],  # [B]
}


class OpenVinoOps:
    """`Ops` over graph nodes; activations are [T, hidden], the tokens of all texts end to end."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.inputs = {name: op.parameter(shape, np.int32, name=name) for name, shape in INPUTS.items()}
        slots, lengths = self.inputs["slots"], self.inputs["lengths"]
        width = op.gather(op.shape_of(slots, "i32"), _ints(1), _ints(0))
        places = op.unsqueeze(op.range(_ints(0), width, _ints(1), "i32"), _ints(0))  # [1, L]
        self._is_token = op.less(places, op.unsqueeze(lengths, _ints(1)))  # [B, L]
        bias = op.select(self._is_token, _floats(0.0), _floats(float(np.finfo(np.float32).min)))
        self._attention_bias = op.unsqueeze(bias, _ints([1, 2]))  # [B, 1, 1, L]

    def _weight(self, name: str) -> Node:
        return op.constant(self._weights[name], shared_memory=True)

    def input_ids(self) -> Node:
        return self.inputs["input_ids"]

    def position_ids(self) -> Node:
        return self.inputs["position_ids"]

    def gather(self, name: str, ids: Node) -> Node:
        return op.gather(self._weight(f"{name}.weight"), ids, _ints(0))

    def row(self, name: str, index: int) -> Node:
        return op.constant(np.array(self._weights[f"{name}.weight"][index]))

    def add(self, a: Node, b: Node) -> Node:
        return op.add(a, b)

    def linear(self, name: str, x: Node) -> Node:
        product = op.matmul(x, self._weight(f"{name}.weight"), transpose_a=False, transpose_b=True)
        return op.add(product, self._weight(f"{name}.bias"))

    def layer_norm(self, name: str, x: Node, eps: float) -> Node:
        scaled = op.mvn(x, _ints([-1]), normalize_variance=True, eps=eps, eps_mode="inside_sqrt")
        return op.add(op.multiply(scaled, self._weight(f"{name}.weight")), self._weight(f"{name}.bias"))

    def gelu(self, x: Node) -> Node:
        return op.gelu(x, "erf")

    def _rows(self, x: Node) -> Node:
        """Lay tokens [T, hidden] out as one row a text [B, L, hidden]; what stands behind a text is masked."""
        return op.gather(x, self.inputs["slots"], _ints(0))

    def attention(self, query: Node, key: Node, value: Node, heads: int) -> Node:
        def split(x: Node) -> Node:
            by_head = op.reshape(self._rows(x), _ints([0, 0, heads, -1]), special_zero=True)
            return op.transpose(by_head, _ints([0, 2, 1, 3]))

        attended = op.scaled_dot_product_attention(
            split(query), split(key), split(value), self._attention_bias, causal=False
        )  # [B, heads, L, hidden / heads]
        hidden = query.get_output_partial_shape(0)[1].get_length()
        rows = op.reshape(
            op.transpose(attended, _ints([0, 2, 1, 3])), _ints([-1, hidden]), special_zero=False
        )
        return op.gather(rows, self.inputs["places"], _ints(0))

    def pool(self, x: Node, pooling: Pooling) -> Node:
        """Reduce the tokens of each text to one vector [B, hidden]."""
        match pooling:
            case Pooling.MEAN:
                mask = op.unsqueeze(op.convert(self._is_token, "f32"), _ints(2))  # [B, L, 1]
                total = op.reduce_sum(op.multiply(self._rows(x), mask), _ints([1]), keep_dims=False)
                lengths = op.convert(self.inputs["lengths"], "f32")
                return op.divide(total, op.unsqueeze(lengths, _ints(1)))
            case Pooling.CLS:
                return op.gather(self._rows(x), _ints(0), _ints(1))
        raise ModelError(f"pooling {pooling} cannot be served.")


def _ints(value: int | list[int]) -> Node:
    return op.constant(np.array(value, np.int32))


def _floats(value: float) -> Node:
    return op.constant(np.array(value, np.float32))


class OpenVinoEngine:
    """One model compiled for the processor; up to `streams` batches run side by side."""

    name = "openvino"
    reproducible = True

    def __init__(self, spec: ModelSpec, *, precision: Precision, threads: int) -> None:
        """Build and compile. Raises ModelError for files that do not fit, SettingError for the precision."""
        self.precision = precision
        # NOTE: streams of one thread each: they serve small batches faster than one stream of many threads, do not
        # wait for a thread whose processor is busy with something else, and leave no reduction to be split.
        self.streams = threads
        self._core = ov.Core()
        _check_native(self._core, precision)
        self.signature = _signature(precision)
        model = _build(spec)
        # Every property that could follow the host or the environment is set here.
        properties = {
            "INFERENCE_PRECISION_HINT": precision.value,
            "EXECUTION_MODE_HINT": "PERFORMANCE",
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNEL_CACHE_ENTRIES,
        }
        compiled = self._core.compile_model(model, "CPU", properties)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.streams):
            self._requests.put(compiled.create_infer_request())

    def bucket(self, length: int) -> int:
        return bucket(length)

    def computed(self, tokens: int) -> int:
        return _next_step(tokens, TOKEN_STEPS)

    def run(self, batch: Batch) -> Vectors:
        # NOTE: not `request.infer`: its conveniences hold the interpreter's lock for 0.2 ms.
        tensors = [ov.Tensor(array, shared_memory=True) for array in _lay_out(batch)]
        request = self._requests.get()
        try:
            for index, tensor in enumerate(tensors):
                request.set_input_tensor(index, tensor)
            request.start_async()
            request.wait()
            return np.array(request.get_output_tensor(0).data)  # [B, D]
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed on a batch of {len(batch.lengths)}: {error}") from error
        finally:
            self._requests.put(request)

    def close(self) -> None:
        for _ in range(self.streams):
            self._requests.get()


def _check_native(core: ov.Core, precision: Precision) -> None:
    known = {Precision.BF16: "BF16", Precision.F32: "FP32"}[precision]
    if precision not in native_precisions() or known not in core.get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise SettingError(f"precision {precision.value!r} is not native on {processor_name()}.")


def _signature(precision: Precision) -> str:
    return f"openvino-{ov.__version__} {precision.value} buckets={BUCKETS} {processor_name()}"


def _build(spec: ModelSpec) -> ov.Model:
    weights = Weights(spec.folder / "model.safetensors")
    encode = encoders.find(spec.architecture, spec.config)
    ops = OpenVinoOps(weights)
    try:
        vectors = ops.pool(encode(ops), spec.pooling)
    except RuntimeError as error:
        raise ModelError(f"{weights.path}: its shapes do not fit config.json: {_last_line(error)}") from None
    weights.check_all_read(encode.unused)
    return ov.Model([vectors], list(ops.inputs.values()), spec.id)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _lay_out(batch: Batch) -> list[NDArray[np.int32]]:
    """Return the arrays that INPUTS names. Tokens that only fill up are id 0 at position 0, and nobody reads them."""
    lengths = batch.lengths
    tokens = len(batch.input_ids)
    places = np.arange(bucket(int(lengths.max())), dtype=np.int32)  # [L]
    is_token = places < lengths[:, None]  # [B, L]
    firsts = (np.cumsum(lengths, dtype=np.int32) - lengths)[:, None]
    input_ids, position_ids, tokens_places = np.zeros((3, _next_step(tokens, TOKEN_STEPS)), np.int32)
    input_ids[:tokens] = batch.input_ids
    position_ids[:tokens] = np.broadcast_to(places, is_token.shape)[is_token]
    tokens_places[:tokens] = np.flatnonzero(is_token)
    # NOTE: behind its own tokens a row repeats its first: masked, but it must be a number, and no other text's.
    slots = firsts + places * is_token  # [B, L]
    return [input_ids, position_ids, slots, tokens_places, lengths]
