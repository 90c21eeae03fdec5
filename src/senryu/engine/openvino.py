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

# Texts are padded to the next of these lengths. NOTE: a bucket follows from the text alone, never from its batch:
# that is what makes bits reproducible. Other widths are other bits, so they are part of the signature.
# (up to this length, in steps of this width); measured in docs/decisions/0003-buckets.md
BUCKETS: tuple[tuple[int, int], ...] = ((32, 4), (128, 8), (512, 16), (1 << 30, 64))

# Kernels kept per shape. Without a bound each new shape stays in memory for good.
KERNEL_CACHE_ENTRIES = 128


def bucket(length: int) -> int:
    """Return the padded length of a text of `length` tokens."""
    for up_to, width in BUCKETS:
        if length <= up_to:
            return -(-length // width) * width
    raise AssertionError(length)


class OpenVinoOps:
    """`Ops` over graph nodes; activations are [B, L, hidden], texts padded on the right to L."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.ids = op.parameter([-1, -1], np.int32, name="input_ids")  # [B, L]
        self.lengths = op.parameter([-1], np.int32, name="lengths")  # [B]
        padded = op.gather(op.shape_of(self.ids, "i32"), _ints(1), _ints(0))
        self._positions = op.range(_ints(0), padded, _ints(1), "i32")  # [L]
        self._is_token = op.less(
            op.unsqueeze(self._positions, _ints(0)), op.unsqueeze(self.lengths, _ints(1))
        )  # [B, L]
        bias = op.select(self._is_token, _floats(0.0), _floats(float(np.finfo(np.float32).min)))
        self._attention_bias = op.unsqueeze(bias, _ints([1, 2]))  # [B, 1, 1, L]

    def _weight(self, name: str) -> Node:
        return op.constant(self._weights[name], shared_memory=True)

    def input_ids(self) -> Node:
        return self.ids

    def position_ids(self) -> Node:
        return self._positions

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

    def attention(self, query: Node, key: Node, value: Node, heads: int) -> Node:
        def split(x: Node) -> Node:
            return op.transpose(
                op.reshape(x, _ints([0, 0, heads, -1]), special_zero=True), _ints([0, 2, 1, 3])
            )

        attended = op.scaled_dot_product_attention(
            split(query), split(key), split(value), self._attention_bias, causal=False
        )  # [B, heads, L, hidden / heads]
        return op.reshape(op.transpose(attended, _ints([0, 2, 1, 3])), _ints([0, 0, -1]), special_zero=True)

    def pool(self, x: Node, pooling: Pooling) -> Node:
        """Reduce the tokens of each text to one vector [B, hidden]."""
        match pooling:
            case Pooling.MEAN:
                mask = op.unsqueeze(op.convert(self._is_token, "f32"), _ints(2))  # [B, L, 1]
                total = op.reduce_sum(op.multiply(x, mask), _ints([1]), keep_dims=False)
                return op.divide(total, op.unsqueeze(op.convert(self.lengths, "f32"), _ints(1)))
            case Pooling.CLS:
                return op.gather(x, _ints(0), _ints(1))
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

    def run(self, batch: Batch) -> Vectors:
        padded = _pad(batch)  # [B, L]
        request = self._requests.get()
        try:
            request.infer([padded, batch.lengths], share_inputs=True)
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
    return ov.Model([vectors], [ops.ids, ops.lengths], spec.id)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _pad(batch: Batch) -> NDArray[np.int32]:
    """Lay the texts out as rows, padded with id 0, which no real token ever attends to."""
    padded = bucket(int(batch.lengths.max()))
    rows = np.zeros((len(batch.lengths), padded), np.int32)
    rows[np.arange(padded) < batch.lengths[:, None]] = batch.input_ids
    return rows
