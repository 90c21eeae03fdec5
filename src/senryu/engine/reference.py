"""The yardstick: the same encoder description in plain NumPy at float64, a text at a time. Slow and exact."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from senryu import encoders
from senryu.engine.weights import Weights
from senryu.errors import ModelError
from senryu.models import ModelSpec, Pooling
from senryu.types import Batch, Ids, Precision, Vectors

Array: TypeAlias = Any  # NDArray[np.float64]; NumPy types most of its results as Any
_erf = np.vectorize(math.erf, otypes=[np.float64])


class NumpyOps:
    """`Ops` over arrays [n, hidden] for the n tokens of one text."""

    def __init__(self, weights: Weights, ids: Ids) -> None:
        self._weights = weights
        self._ids = ids

    def _weight(self, name: str) -> Array:
        return self._weights[name].astype(np.float64)

    def input_ids(self) -> Array:
        return self._ids

    def position_ids(self) -> Array:
        return np.arange(len(self._ids))

    def gather(self, name: str, ids: Array) -> Array:
        return self._weights[f"{name}.weight"][ids].astype(np.float64)

    def row(self, name: str, index: int) -> Array:
        return self._weight(f"{name}.weight")[index]

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def linear(self, name: str, x: Array) -> Array:
        return x @ self._weight(f"{name}.weight").T + self._weight(f"{name}.bias")

    def layer_norm(self, name: str, x: Array, eps: float) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return scaled * self._weight(f"{name}.weight") + self._weight(f"{name}.bias")

    def gelu(self, x: Array) -> Array:
        return x * 0.5 * (1.0 + _erf(x / math.sqrt(2.0)))

    def attention(self, query: Array, key: Array, value: Array, heads: int) -> Array:
        n, hidden = query.shape

        def split(x: Array) -> Array:
            return x.reshape(n, heads, hidden // heads).transpose(1, 0, 2)  # [heads, n, hidden / heads]

        scores = split(query) @ split(key).transpose(0, 2, 1) / math.sqrt(hidden // heads)  # [heads, n, n]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ split(value)).transpose(1, 0, 2).reshape(n, hidden)


class ReferenceEngine:
    """Runs texts one by one; what another engine is measured against."""

    name = "reference"
    precision = Precision.F32
    reproducible = True
    streams = 1
    signature = f"reference numpy-{np.__version__} float64"

    def __init__(self, spec: ModelSpec, *, precision: Precision = Precision.F32, threads: int = 1) -> None:
        self._encode = encoders.find(spec.architecture, spec.config)
        self._pooling = spec.pooling
        self._weights = Weights(spec.folder / "model.safetensors")

    def bucket(self, length: int) -> int:
        return length

    def computed(self, tokens: int) -> int:
        return tokens

    def run(self, batch: Batch) -> Vectors:
        texts = np.split(batch.input_ids, np.cumsum(batch.lengths)[:-1])
        rows = [self._pool(self._encode(NumpyOps(self._weights, ids))) for ids in texts]
        return np.stack(rows).astype(np.float32)  # [B, D]

    def _pool(self, x: Array) -> Array:
        match self._pooling:
            case Pooling.MEAN:
                return np.asarray(x.mean(0))
            case Pooling.CLS:
                return x[0]
        raise ModelError(f"pooling {self._pooling} cannot be served.")

    def close(self) -> None:
        pass
