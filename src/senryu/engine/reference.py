"""The yardstick: the same model description in plain NumPy at float64, a text at a time. Slow and exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from senryu.encoders.ops import Activation
from senryu.engine.batches import prompt_lengths
from senryu.engine.model import Model
from senryu.engine.weights import Weights
from senryu.models import ModelSpec, Pooling
from senryu.outputs import normalise
from senryu.types import Batch, Precision, Vectors

Array: TypeAlias = Any  # NDArray[np.float64]; NumPy types most of its results as Any
_erf = np.vectorize(math.erf, otypes=[np.float64])

_ACTIVATIONS: dict[Activation, Any] = {
    "gelu": lambda x: x * 0.5 * (1.0 + _erf(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: x * 0.5 * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "tanh": np.tanh,
}


class NumpyOps:
    """`PooledOps` over arrays [n, hidden] for the n tokens of one text."""

    def __init__(self, weights: Weights, ids: NDArray[np.int32], prompt_length: int = 0) -> None:
        self._weights = weights
        self._ids = ids
        self._prompt_length = prompt_length
        self._places = np.arange(len(ids))

    def _weight(self, name: str, part: tuple[int, int] = (0, 1)) -> Array:
        index, parts = part
        return np.split(self._weights[name], parts)[index].astype(np.float64)

    def input_ids(self) -> Array:
        return self._ids

    def position_ids(self, padding: int | None = None) -> Array:
        if padding is None:
            return self._places
        counted = self._ids != padding
        return np.where(counted, np.cumsum(counted), 0) + padding

    def gather(self, name: str, ids: Array) -> Array:
        return self._weights[f"{name}.weight"][ids].astype(np.float64)

    def row(self, name: str, index: int) -> Array:
        return self._weight(f"{name}.weight")[index]

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def multiply(self, a: Array, b: Array) -> Array:
        return a * b

    def scale(self, x: Array, factor: float) -> Array:
        return x * factor

    def linear(self, name: str, x: Array, *, bias: bool = True, part: tuple[int, int] = (0, 1)) -> Array:
        product = x @ self._weight(f"{name}.weight", part).T
        return product + self._weight(f"{name}.bias", part) if bias else product

    def layer_norm(self, name: str, x: Array, eps: float, *, bias: bool = True) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        scaled = scaled * self._weight(f"{name}.weight")
        return scaled + self._weight(f"{name}.bias") if bias else scaled

    def rms_norm(self, name: str, x: Array, eps: float, *, heads: int = 1, offset: float = 0.0) -> Array:
        split = x.reshape(len(x), heads, -1)
        scaled = split / np.sqrt((split**2).mean(-1, keepdims=True) + eps)
        return (scaled * (offset + self._weight(f"{name}.weight"))).reshape(x.shape)

    def activation(self, kind: Activation, x: Array) -> Array:
        return _ACTIVATIONS[kind](x)

    def rotary(self, x: Array, heads: int, frequencies: NDArray[np.float32]) -> Array:
        angles = self._places.astype(np.float32)[:, None, None] * frequencies
        cos, sin = np.cos(angles.astype(np.float64)), np.sin(angles.astype(np.float64))
        first, second = np.split(x.reshape(len(x), heads, -1), 2, axis=-1)
        turned = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return turned.reshape(x.shape)

    def _distances(self) -> Array:
        return self._places[None, :] - self._places[:, None]  # [n, n], to the right

    def alibi(self, slopes: Sequence[float]) -> Array:
        return -np.array(slopes)[:, None, None] * np.abs(self._distances())

    def relative_bias(self, name: str, rows: Sequence[int], heads: int) -> Array:
        furthest = len(rows) // 2
        chosen = np.array(rows)[np.clip(self._distances(), -furthest, furthest) + furthest]  # [n, n]
        return self._weight(f"{name}.weight")[chosen].transpose(2, 0, 1)

    def attention(
        self,
        query: Array,
        key: Array,
        value: Array,
        heads: int,
        *,
        key_heads: int | None = None,
        scale: float | None = None,
        causal: bool = False,
        window: int | None = None,
        bias: Array | None = None,
    ) -> Array:
        n, hidden = query.shape

        def split(x: Array, heads_of_x: int) -> Array:
            by_head = x.reshape(n, heads_of_x, -1).transpose(1, 0, 2)  # [heads of x, n, head]
            return np.repeat(by_head, heads // heads_of_x, axis=0)

        key_heads = key_heads or heads
        scores = split(query, heads) @ split(key, key_heads).transpose(0, 2, 1)  # [heads, n, n]
        scores = scores * (scale or 1.0 / math.sqrt(hidden // heads))
        scores = scores if bias is None else scores + bias
        distances = self._distances()
        seen = (distances <= 0) | (not causal)
        seen &= True if window is None else np.abs(distances) <= window
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ split(value, key_heads)).transpose(1, 0, 2).reshape(n, hidden)

    def pool(self, x: Array, pooling: Pooling, *, include_prompt: bool = True) -> Array:
        ranks = np.arange(1.0, len(x) + 1)[:, None]
        if not include_prompt:
            if self._prompt_length == len(x):
                return x[:1] if pooling is Pooling.CLS else np.zeros_like(x[:1])
            x, ranks = x[self._prompt_length :], ranks[self._prompt_length :]
        n = len(x)
        pooled = {
            Pooling.MEAN: lambda: x.mean(0),
            Pooling.CLS: lambda: x[0],
            Pooling.MAX: lambda: x.max(0),
            Pooling.MEAN_SQRT_LEN: lambda: x.sum(0) / math.sqrt(n),
            Pooling.WEIGHTED_MEAN: lambda: (x * ranks).sum(0) / ranks.sum(),
            Pooling.LAST_TOKEN: lambda: x[-1],
        }
        return pooled[pooling]()[None]  # [1, hidden], as behind it every tensor has a row a text

    def each(self, x: Array, compute: Callable[[Array], Array]) -> Array:
        return compute(x)

    def normalize(self, x: Array) -> Array:
        return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class ReferenceEngine:
    """Runs texts one by one; what another engine is measured against."""

    name = "reference"
    precision = Precision.F32
    reproducible = True
    batch_seconds = 0.025
    streams = 1
    loss = None
    signature = f"reference numpy-{np.__version__} float64"

    def __init__(self, spec: ModelSpec, *, precision: Precision = Precision.F32, threads: int = 1) -> None:
        self._model = Model(spec)

    def bucket(self, length: int) -> int:
        return length

    def computed(self, tokens: int) -> int:
        return tokens

    def run(self, batch: Batch) -> Vectors:
        texts = np.split(batch.input_ids, np.cumsum(batch.lengths)[:-1])
        rows = [
            self._model.vectors(NumpyOps(self._model.weights, ids, prompt_length))
            for ids, prompt_length in zip(texts, prompt_lengths(batch), strict=True)
        ]
        return normalise(np.concatenate(rows).astype(np.float32))  # [B, D]

    def close(self) -> None:
        pass
