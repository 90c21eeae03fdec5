"""The vocabulary of the encoders as an OpenVINO graph over packed tokens, and the inputs that the graph takes.

Knows graph nodes and how tokens become rows for attention; nothing of buckets, precision, threads or running.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from senryu.encoders.ops import Activation
from senryu.engine.weights import Weights
from senryu.errors import ModelError
from senryu.models import Pooling

# NOTE: this module of openvino writes two files under the user's home and looks up an analytics host when it is
# imported. None in its place stops both; nothing of ours needs the model converter that it holds.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402

__all__ = ["INPUTS", "OpenVinoOps", "op", "ov"]

Node: TypeAlias = Any

# Everything the graph is handed, all int32. T: tokens of the batch, filled up; B: texts; L: the width of their rows.
INPUTS: dict[str, list[int]] = {
    "input_ids": [-1],  # [T]
    "position_ids": [-1],  # [T], each token's place in its own text
    "slots": [-1, -1],  # [B, L], which token stands there
    "places": [-1],  # [T], where each token stands in the rows, laid end to end
    "lengths": [-1],  # [B]
}

# NOTE: not the lowest float32: with a bias, or as bf16, that would be −∞, and a row of it no number.
MASKED = -1e30

# Texts are filled up to a multiple of this where something is computed behind the pooling.
ROWS = 16

_ACTIVATIONS: dict[Activation, Any] = {
    "gelu": lambda x: op.gelu(x, "erf"),
    "gelu_tanh": lambda x: op.gelu(x, "tanh"),
    "relu": op.relu,
    "silu": op.swish,
    "tanh": op.tanh,
}


class OpenVinoOps:
    """`PooledOps` over graph nodes; activations are [T, hidden], the tokens of all texts end to end."""

    def __init__(self, weights: Weights, positions: int, vocabulary: int = 0) -> None:
        """Make the graph's inputs. `positions`: the longest text, in tokens; `vocabulary`: how many ids there are."""
        self._weights = weights
        self._positions = positions
        self._hidden: int | None = None  # the width of every table
        self.inputs = {name: op.parameter(shape, np.int32, name=name) for name, shape in INPUTS.items()}
        slots, lengths = self.inputs["slots"], self.inputs["lengths"]
        width = op.gather(op.shape_of(slots, "i32"), _ints(1), _ints(0))
        self._columns = op.unsqueeze(op.range(_ints(0), width, _ints(1), "i32"), _ints(0))  # [1, L]
        self._is_token = op.less(self._columns, op.unsqueeze(lengths, _ints(1)))  # [B, L]
        # Nodes of ids, and how many rows a table must have for them.
        self._ids: list[tuple[Node, int]] = [
            (self.inputs["input_ids"], vocabulary),
            (self.inputs["position_ids"], positions),
        ]
        self._masks: dict[tuple[bool, int | None], Node] = {}
        self._turns: dict[bytes, tuple[Node, Node]] = {}

    def _weight(self, name: str, part: tuple[int, int] = (0, 1)) -> Node:
        return op.constant(self._weights.share(name, part), shared_memory=True)

    def _vector(self, name: str, size: int | None) -> Node:
        self._weights.expect(name, size)
        return self._weight(name)

    def input_ids(self) -> Node:
        return self.inputs["input_ids"]

    def position_ids(self, padding: int | None = None) -> Node:
        places = self.inputs["position_ids"]
        if padding is None:
            return places
        counts = op.convert(op.not_equal(self.input_ids(), _ints(padding)), "i32")
        before = op.cum_sum(
            counts, _ints(0), exclusive=True
        )  # of all texts, so less what its own begins with
        firsts = op.subtract(op.range(_ints(0), _count(places), _ints(1), "i32"), places)
        own = op.subtract(op.add(before, counts), op.gather(before, firsts, _ints(0)))
        places = op.add(op.multiply(own, counts), _ints(padding))
        self._ids.append((places, padding + 1 + self._positions))
        return places

    def gather(self, name: str, ids: Node) -> Node:
        rows = next(rows for node, rows in self._ids if node is ids)
        self._hidden = self._weights.expect_table(name, rows, self._hidden)
        # NOTE: a table stored as bf16 is left in its file; widened it would be most of a model's memory. The graph
        # does not keep the file open: whoever runs it keeps the weights.
        stored = self._weights.bf16(f"{name}.weight")
        if stored is None:
            return op.gather(self._weight(f"{name}.weight"), ids, _ints(0))
        table = op.constant(ov.Tensor(stored, ov.Shape(list(stored.shape)), ov.Type.bf16))
        return op.convert(op.gather(table, ids, _ints(0)), "f32")

    def row(self, name: str, index: int) -> Node:
        self._hidden = self._weights.expect_table(name, index + 1, self._hidden)
        return op.constant(np.array(self._weights[f"{name}.weight"][index]))

    def add(self, a: Node, b: Node) -> Node:
        return op.add(a, b)

    def multiply(self, a: Node, b: Node) -> Node:
        return op.multiply(a, b)

    def scale(self, x: Node, factor: float) -> Node:
        return op.multiply(x, _floats(factor))

    def linear(self, name: str, x: Node, *, bias: bool = True, part: tuple[int, int] = (0, 1)) -> Node:
        self._weights.expect_linear(name, _width(x), part[1], bias=bias)
        product = op.matmul(x, self._weight(f"{name}.weight", part), transpose_a=False, transpose_b=True)
        return op.add(product, self._weight(f"{name}.bias", part)) if bias else product

    def layer_norm(self, name: str, x: Node, eps: float, *, bias: bool = True) -> Node:
        scaled = op.mvn(x, _ints([-1]), normalize_variance=True, eps=eps, eps_mode="inside_sqrt")
        scaled = op.multiply(scaled, self._vector(f"{name}.weight", _width(x)))
        return op.add(scaled, self._vector(f"{name}.bias", _width(x))) if bias else scaled

    def rms_norm(self, name: str, x: Node, eps: float, *, heads: int = 1, offset: float = 0.0) -> Node:
        x = _split(x, heads) if heads > 1 else x
        self._weights.expect(f"{name}.weight", _width(x))
        weight = self._weights[f"{name}.weight"]
        factors = op.constant(weight + np.float32(offset)) if offset else self._weight(f"{name}.weight")
        mean = op.reduce_mean(op.power(x, _floats(2.0)), _ints([-1]), keep_dims=True)
        root = op.sqrt(op.add(mean, _floats(eps)))
        scaled = op.multiply(op.multiply(x, op.divide(_floats(1.0), root)), factors)
        return _join(scaled) if heads > 1 else scaled

    def activation(self, kind: Activation, x: Node) -> Node:
        return _ACTIVATIONS[kind](x)

    def rotary(self, x: Node, heads: int, frequencies: NDArray[np.float32]) -> Node:
        cos, sin = self._turn(frequencies)
        if _width(x) != 2 * len(frequencies) * heads:
            raise ModelError(
                f"{self._weights.path}: its shapes do not fit config.json: {heads} heads of {2 * len(frequencies)} "
                f"numbers are needed, and {_width(x)} are given."
            )
        first, second = op.split(_split(x, heads), _ints(2), 2).outputs()  # [T, heads, half] each
        turned = [
            op.subtract(op.multiply(first, cos), op.multiply(second, sin)),
            op.add(op.multiply(second, cos), op.multiply(first, sin)),
        ]
        return _join(op.concat(turned, 2))

    def _turn(self, frequencies: NDArray[np.float32]) -> tuple[Node, Node]:
        """Return cosine and sine of every token's angles [T, 1, half].

        NOTE: looked up, not computed: in bf16 a position above 256 is another position.
        """
        key = frequencies.tobytes()
        if key not in self._turns:
            angles = np.arange(self._positions, dtype=np.float32)[:, None] * frequencies
            tables = (np.cos(angles.astype(np.float64)), np.sin(angles.astype(np.float64)))
            cos, sin = (
                op.unsqueeze(
                    op.gather(op.constant(t.astype(np.float32)), self.position_ids(), _ints(0)), _ints(1)
                )
                for t in tables
            )
            self._turns[key] = cos, sin
        return self._turns[key]

    def _distances(self) -> Node:
        """Return how far to the right each column's token is of each row's, [L, L]."""
        return op.subtract(self._columns, op.transpose(self._columns, _ints([1, 0])))

    def alibi(self, slopes: Sequence[float]) -> Node:
        factors = op.constant(-np.array(slopes, np.float32)[:, None, None])
        return op.unsqueeze(op.multiply(factors, op.convert(op.abs(self._distances()), "f32")), _ints(0))

    def relative_bias(self, name: str, rows: Sequence[int], heads: int) -> Node:
        self._weights.expect(f"{name}.weight", max(rows) + 1, heads)
        furthest = len(rows) // 2
        distances = op.clamp(self._distances(), -furthest, furthest)
        chosen = op.gather(_ints(list(rows)), op.add(distances, _ints(furthest)), _ints(0))  # [L, L]
        by_head = op.constant(np.ascontiguousarray(self._weights[f"{name}.weight"].T))
        return op.unsqueeze(op.gather(by_head, chosen, _ints(1)), _ints(0))  # [1, heads, L, L]

    def _rows(self, x: Node) -> Node:
        """Lay tokens [T, hidden] out as one row a text [B, L, hidden]; what stands behind a text is masked."""
        return op.gather(x, self.inputs["slots"], _ints(0))

    def _mask(self, causal: bool, window: int | None) -> Node:
        """Return 0 where a token is attended to and MASKED elsewhere, [B, 1, 1 or L, L]."""
        if (causal, window) not in self._masks:
            seen = op.unsqueeze(self._is_token, _ints([1, 2]))
            # NOTE: without distances: for a long text they would take as much memory as the mask.
            columns, rows = self._columns, op.transpose(self._columns, _ints([1, 0]))
            if causal:
                seen = op.logical_and(seen, op.less_equal(columns, rows))
            if window is not None:
                seen = op.logical_and(seen, op.less_equal(columns, op.add(rows, _ints(window))))
                seen = op.logical_and(seen, op.greater_equal(columns, op.subtract(rows, _ints(window))))
            self._masks[causal, window] = op.select(seen, _floats(0.0), _floats(MASKED))
        return self._masks[causal, window]

    def attention(
        self,
        query: Node,
        key: Node,
        value: Node,
        heads: int,
        *,
        key_heads: int | None = None,
        scale: float | None = None,
        causal: bool = False,
        window: int | None = None,
        bias: Node | None = None,
    ) -> Node:
        def by_head(x: Node, heads_of_x: int) -> Node:
            split = op.reshape(self._rows(x), _ints([0, 0, heads_of_x, -1]), special_zero=True)
            split = op.transpose(split, _ints([0, 2, 1, 3]))  # [B, heads of x, L, head]
            shared = [head * heads_of_x // heads for head in range(heads)]
            return split if heads_of_x == heads else op.gather(split, _ints(shared), _ints(1))

        key_heads = key_heads or heads
        mask = self._mask(causal, window)
        mask = mask if bias is None else op.add(mask, bias)
        hidden, width = (x.get_output_partial_shape(0)[1].get_length() for x in (query, value))
        # NOTE: written out, because of OpenVINO's own operation the plug-in copies every key, transposed.
        queries, keys, values = by_head(query, heads), by_head(key, key_heads), by_head(value, key_heads)
        scores = op.matmul(queries, keys, transpose_a=False, transpose_b=True)  # [B, heads, L, L]
        scores = op.multiply(scores, _floats(scale or 1 / math.sqrt(hidden // heads)))
        shares = op.softmax(op.add(scores, mask), 3)
        attended = op.matmul(shares, values, transpose_a=False, transpose_b=False)  # [B, heads, L, head]
        attended = op.transpose(attended, _ints([0, 2, 1, 3]))
        rows = op.reshape(attended, _ints([-1, width * heads // key_heads]), special_zero=False)
        return op.gather(rows, self.inputs["places"], _ints(0))

    def each(self, x: Node, compute: Callable[[Node], Node]) -> Node:
        """Compute something of each text's vector.

        NOTE: filled up as tokens are: the kernel for a single row has other bits than that for many.
        """
        count = _count(x)
        steps = op.divide(op.add(count, _ints(ROWS - 1)), _ints(ROWS))
        rows = op.range(_ints(0), op.multiply(steps, _ints(ROWS)), _ints(1), "i32")
        filled = op.gather(x, op.minimum(rows, op.subtract(count, _ints(1))), _ints(0))
        return op.gather(compute(filled), op.range(_ints(0), count, _ints(1), "i32"), _ints(0))

    def pool(self, x: Node, pooling: Pooling, *, include_prompt: bool = True) -> Node:
        if include_prompt:
            return self._pool(x, pooling, self._is_token)
        prompts = op.parameter([-1], np.int32, name="prompt_lengths")  # [B]
        self.inputs["prompt_lengths"] = prompts
        is_left = op.less(prompts, self.inputs["lengths"])
        if pooling is Pooling.CLS:
            return self._at(x, op.select(is_left, prompts, _ints(0)))
        is_behind = op.greater_equal(self._columns, op.unsqueeze(prompts, _ints(1)))
        pooled = self._pool(x, pooling, op.logical_and(self._is_token, is_behind))
        return op.select(op.unsqueeze(is_left, _ints(1)), pooled, _floats(0.0))

    def _pool(self, x: Node, pooling: Pooling, is_pooled: Node) -> Node:
        match pooling:
            case Pooling.CLS:
                return op.gather(x, op.gather(self.inputs["slots"], _ints(0), _ints(1)), _ints(0))
            case Pooling.LAST_TOKEN:
                return self._at(x, op.subtract(self.inputs["lengths"], _ints(1)))
            case Pooling.MAX:
                shift = op.select(is_pooled, _floats(0.0), _floats(MASKED))
                rows = op.add(self._rows(x), op.unsqueeze(shift, _ints(2)))
                return op.reduce_max(rows, _ints([1]), keep_dims=False)
        return self._mean(x, pooling, is_pooled)

    def _at(self, x: Node, places: Node) -> Node:
        """Return the token that stands at one place of each text."""
        slots = op.gather_elements(self.inputs["slots"], op.unsqueeze(places, _ints(1)), 1)
        return op.gather(x, op.squeeze(slots, _ints(1)), _ints(0))

    def _mean(self, x: Node, pooling: Pooling, is_pooled: Node) -> Node:
        weights = op.convert(is_pooled, "f32")  # [B, L]
        counts = op.convert(self.inputs["lengths"], "f32")  # [B]
        if pooling is Pooling.WEIGHTED_MEAN:
            weights = op.multiply(weights, op.convert(op.add(self._columns, _ints(1)), "f32"))
            counts = op.multiply(op.multiply(counts, op.add(counts, _floats(1.0))), _floats(0.5))
        if is_pooled is not self._is_token:
            counts = op.reduce_sum(weights, _ints([1]), keep_dims=False)
        if pooling is Pooling.MEAN_SQRT_LEN:
            counts = op.sqrt(counts)
        weighted = op.multiply(self._rows(x), op.unsqueeze(weights, _ints(2)))
        return op.divide(op.reduce_sum(weighted, _ints([1]), keep_dims=False), op.unsqueeze(counts, _ints(1)))

    def normalize(self, x: Node) -> Node:
        return op.normalize_l2(x, _ints([-1]), 1e-24, "max")


def _count(x: Node) -> Node:
    return op.gather(op.shape_of(x, "i32"), _ints(0), _ints(0))


def _width(x: Node) -> int | None:
    """Return the size of the last axis, where it is known."""
    last = x.get_output_partial_shape(0)[-1]
    return last.get_length() if last.is_static else None


def _split(x: Node, heads: int) -> Node:
    """Take heads apart: [T, hidden] → [T, heads, hidden / heads]."""
    return op.reshape(x, _ints([0, heads, -1]), special_zero=True)


def _join(x: Node) -> Node:
    """Lay heads side by side again: [T, heads, head] → [T, hidden]."""
    _, heads, head = x.get_output_partial_shape(0)
    return op.reshape(x, _ints([-1, heads.get_length() * head.get_length()]), special_zero=False)


def _ints(value: int | list[int]) -> Node:
    return op.constant(np.array(value, np.int32))


def _floats(value: float) -> Node:
    return op.constant(np.array(value, np.float32))
