"""The vocabulary that every encoder is written in. It names no shape, device, precision, padding or packing.

An engine implements `Ops` over its own tensors (graph nodes, arrays) and runs any encoder unchanged. A weight
is named, never handed over as an array: quantisation ranges, shards and prefixes hang on the name.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

T = TypeVar("T")


class Ops(Protocol[T]):
    """Operations over the tokens of the texts that run together; `hidden` is the last axis of every tensor."""

    def input_ids(self) -> T:
        """Token ids, int32."""

    def position_ids(self) -> T:
        """Each token's place in its own text, from 0, int32."""

    def gather(self, name: str, ids: T) -> T:
        """Rows `ids` of the table `{name}.weight`."""

    def row(self, name: str, index: int) -> T:
        """Row `index` of the table `{name}.weight`, for every token alike."""

    def add(self, a: T, b: T) -> T:
        """The sum, element by element."""

    def linear(self, name: str, x: T) -> T:
        """x · `{name}.weight`ᵀ + `{name}.bias`."""

    def layer_norm(self, name: str, x: T, eps: float) -> T:
        """Layer normalisation over hidden, scaled by `{name}.weight`, shifted by `{name}.bias`."""

    def gelu(self, x: T) -> T:
        """x · Φ(x), the exact form over erf."""

    def attention(self, query: T, key: T, value: T, heads: int) -> T:
        """Softmax attention of every token over the tokens of its own text, heads side by side in hidden."""
