"""The vocabulary of the encoders as a record of what is computed from what: the input of plan.py.

Knows widths and weights, and refuses those that do not fit; nothing of formats, memory or kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senryu.encoders.ops import Activation
from senryu.engine.kernels import WORD, NotComputed, Operation
from senryu.engine.weights import Weights
from senryu.errors import ModelError
from senryu.models import Pooling

ACTIVATIONS: tuple[Activation | None, ...] = (None, "gelu", "gelu_tanh", "relu", "silu", "tanh")
POOLINGS = (
    Pooling.MEAN,
    Pooling.CLS,
    Pooling.MAX,
    Pooling.MEAN_SQRT_LEN,
    Pooling.WEIGHTED_MEAN,
    Pooling.LAST_TOKEN,
)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """What one operation makes of others: a tensor of `width` numbers a token, or a text behind the pooling."""

    operation: Operation
    inputs: tuple[Value, ...]
    width: int
    #: The step's own fields; arrays are handed over by address.
    given: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    layer: Layer | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """The weight of a linear layer, or a share of its outputs."""

    name: str
    part: tuple[int, int]
    has_bias: bool


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One row of a table, the same for every token."""

    numbers: NDArray[np.float32]

    @property
    def width(self) -> int:
        """Return how many numbers it has."""
        return len(self.numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Bias:
    """What is added to the scores of attention, by the distance from query to key, [heads, 2 · reach + 1]."""

    numbers: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Indices:
    """Numbers of rows of a table: token ids or places, and how many rows a table must have for them."""

    kind: int
    rows: int


class NativeOps:
    """`PooledOps` that note down what is to be computed."""

    def __init__(self, weights: Weights, positions: int, vocabulary: int = 0) -> None:
        """Begin a record. `positions`: the longest text, in tokens; `vocabulary`: how many ids there are."""
        self.weights = weights
        self.values: list[Value] = []
        self.padding_id = -1
        self.id_count = 1 << 31  # of the tables that token ids are looked up in, the fewest rows
        self._positions = positions
        self._vocabulary = vocabulary
        self._hidden: int | None = None
        self._turns: dict[bytes, dict[str, Any]] = {}

    def _note(
        self,
        operation: Operation,
        inputs: tuple[Value, ...],
        width: int,
        *,
        layer: Layer | None = None,
        **given: Any,
    ) -> Value:
        arrays = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
        fields = {name: value for name, value in given.items() if name not in arrays}
        self.values.append(Value(operation, inputs, width, fields, arrays, layer))
        return self.values[-1]

    def _misfit(self, what: str) -> ModelError:
        return ModelError(f"{self.weights.path}: its shapes do not fit config.json: {what}.")

    def _expect_width(self, x: Any, width: int) -> None:
        """Raise ModelError unless a tensor is as wide as what it meets."""
        if x.width != width:
            raise self._misfit(f"{x.width} numbers meet {width}")

    def _vector(self, name: str, size: int) -> NDArray[np.float32]:
        self.weights.expect(name, size)
        return self.weights[name]

    def input_ids(self) -> Any:
        return Indices(0, self._vocabulary)

    def position_ids(self, padding: int | None = None) -> Any:
        if padding is None:
            return Indices(1, self._positions)
        self.padding_id = padding
        return Indices(2, padding + 1 + self._positions)

    def gather(self, name: str, ids: Any) -> Any:
        width = self._hidden = self.weights.expect_table(name, ids.rows, self._hidden)
        if ids.kind == 0:
            self.id_count = min(self.id_count, self.weights.shape(f"{name}.weight")[0])
        stored = self.weights.bf16(f"{name}.weight")
        table = self.weights[f"{name}.weight"] if stored is None else stored
        return self._note(
            Operation.GATHER, (), width, index=ids.kind, is_flagged=int(stored is not None), weight=table
        )

    def row(self, name: str, index: int) -> Any:
        self._hidden = self.weights.expect_table(name, index + 1, self._hidden)
        return Row(np.array(self.weights[f"{name}.weight"][index]))

    def add(self, a: Any, b: Any) -> Any:
        if isinstance(a, Row):
            return self.add(b, a)
        self._expect_width(b, a.width)
        if isinstance(b, Row):
            return self._note(Operation.ADD_ROW, (a,), a.width, bias=b.numbers)
        return self._note(Operation.ADD, (a, b), a.width)

    def multiply(self, a: Any, b: Any) -> Any:
        self._expect_width(b, a.width)
        return self._note(Operation.MULTIPLY, (a, b), a.width)

    def scale(self, x: Any, factor: float) -> Any:
        return self._note(Operation.SCALE, (x,), x.width, factor=factor)

    def linear(self, name: str, x: Any, *, bias: bool = True, part: tuple[int, int] = (0, 1)) -> Any:
        outputs = self.weights.expect_linear(name, x.width, part[1], bias=bias)
        if x.width % WORD:
            raise NotComputed(f"the layer {name!r} has {x.width} inputs, which is no multiple of {WORD}.")
        return self._note(Operation.LINEAR, (x,), outputs // part[1], layer=Layer(name, part, bias))

    def layer_norm(self, name: str, x: Any, eps: float, *, bias: bool = True) -> Any:
        given: dict[str, Any] = {"scale": self._vector(f"{name}.weight", x.width)}
        if bias:
            given["bias"] = self._vector(f"{name}.bias", x.width)
        return self._note(Operation.LAYER_NORM, (x,), x.width, epsilon=eps, **given)

    def rms_norm(self, name: str, x: Any, eps: float, *, heads: int = 1, offset: float = 0.0) -> Any:
        weight = self._vector(f"{name}.weight", x.width // heads) + np.float32(offset)
        return self._note(Operation.RMS_NORM, (x,), x.width, epsilon=eps, heads=heads, scale=weight)

    def activation(self, kind: Activation, x: Any) -> Any:
        return self._note(Operation.ACTIVATION, (x,), x.width, activation=ACTIVATIONS.index(kind))

    def rotary(self, x: Any, heads: int, frequencies: NDArray[np.float32]) -> Any:
        if x.width != 2 * len(frequencies) * heads:
            raise self._misfit(
                f"{heads} heads of {2 * len(frequencies)} numbers are needed, and {x.width} given"
            )
        return self._note(Operation.ROTARY, (x,), x.width, heads=heads, **self._turn(frequencies))

    def _turn(self, frequencies: NDArray[np.float32]) -> dict[str, Any]:
        """Return cosines and sines of all places' angles, [positions, half]."""
        key = frequencies.tobytes()
        if key not in self._turns:
            angles = (np.arange(self._positions, dtype=np.float32)[:, None] * frequencies).astype(np.float64)
            self._turns[key] = {
                "weight": np.cos(angles).astype(np.float32),
                "scale": np.sin(angles).astype(np.float32),
            }
        return self._turns[key]

    def alibi(self, slopes: Sequence[float]) -> Any:
        reach = self._positions
        distances = np.abs(np.arange(-reach, reach + 1, dtype=np.float32))
        return Bias(-np.array(slopes, np.float32)[:, None] * distances)

    def relative_bias(self, name: str, rows: Sequence[int], heads: int) -> Any:
        self.weights.expect(f"{name}.weight", max(rows) + 1, heads)
        furthest, reach = len(rows) // 2, self._positions
        chosen = np.array(rows)[np.clip(np.arange(-reach, reach + 1), -furthest, furthest) + furthest]
        return Bias(np.ascontiguousarray(self.weights[f"{name}.weight"][chosen].T))

    def attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        heads: int,
        *,
        key_heads: int | None = None,
        scale: float | None = None,
        causal: bool = False,
        window: int | None = None,
        bias: Any = None,
    ) -> Any:
        key_heads, head = key_heads or heads, query.width // heads
        if query.width % heads or heads % key_heads:
            raise self._misfit(
                f"{query.width} numbers cannot be shared by {heads} heads, or these by {key_heads}"
            )
        for shared in (key, value):
            self._expect_width(shared, key_heads * head)
        if head % 2:
            raise NotComputed(f"a head of attention has {head} channels, which is an odd number.")
        given: dict[str, Any] = (
            {} if bias is None else {"bias": bias.numbers, "index": bias.numbers.shape[1] // 2}
        )
        return self._note(
            Operation.ATTENTION,
            (query, key, value),
            query.width,
            heads=heads,
            key_heads=key_heads,
            factor=scale or 1 / math.sqrt(query.width // heads),
            is_causal=int(causal),
            window=-1 if window is None else window,
            **given,
        )

    def each(self, x: Any, compute: Callable[[Any], Any]) -> Any:
        return compute(x)

    def pool(self, x: Any, pooling: Pooling, *, include_prompt: bool = True) -> Any:
        return self._note(
            Operation.POOL, (x,), x.width, index=POOLINGS.index(pooling), is_flagged=int(not include_prompt)
        )

    def normalize(self, x: Any) -> Any:
        return self._note(Operation.NORMALIZE, (x,), x.width)
