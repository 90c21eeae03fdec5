"""One model as its files have it: encoder, pooling, and the modules behind that, described over operations.

What every engine builds. Knows which weights belong to a model; nothing of batches, devices or precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from senryu import encoders
from senryu.encoders.ops import Ops, T
from senryu.engine.weights import Weights
from senryu.errors import ModelError
from senryu.models import Dense, LayerNorm, ModelSpec, Module, Pooling

_LAYER_NORM_EPS = 1e-5  # PyTorch's own, which sentence-transformers leaves as it is


class PooledOps(Ops[T], Protocol[T]):
    """`Ops` that also know which tokens are a text's. Behind `pool` a tensor has a row a text."""

    def pool(self, x: T, pooling: Pooling, *, include_prompt: bool = True) -> T:
        """Reduce the tokens of each text to one vector; those of its prompt are left out unless `include_prompt`.

        As Pooling of sentence-transformers does from 5.5 on. Of a text that is prompt alone CLS is its first token,
        and everything else zeros.
        """

    def each(self, x: T, compute: Callable[[T], T]) -> T:
        """`compute` of vectors, so that what it makes of one does not depend on how many there are."""

    def normalize(self, x: T) -> T:
        """Each vector over its length (L2)."""


class Model:
    """The description of one model and the weights that it names."""

    def __init__(self, spec: ModelSpec) -> None:
        """Open the weights. Raises ModelError for an architecture or files that cannot be served."""
        self._spec = spec
        self.encoder = encoders.find(spec.architecture, spec.config, str(spec.folder / "config.json"))
        self.weights = Weights([spec.folder / name for name in spec.weight_files], self.encoder.prefixes)
        for index, module in enumerate(spec.modules):
            if isinstance(module, Dense | LayerNorm):
                self.weights.add(spec.folder / module.weights, _name(index))
            if isinstance(module, Dense):
                self.weights.expect(f"{_name(index)}.linear.weight", module.out_features, module.in_features)

    def vectors(self, ops: PooledOps[T]) -> T:
        """Compute a vector a text, not normalised."""
        pooled = ops.pool(self.encoder(ops), self._spec.pooling, include_prompt=self._spec.include_prompt)
        return ops.each(pooled, lambda x: self._apply(ops, x)) if self._spec.modules else pooled

    def _apply(self, ops: PooledOps[T], x: T) -> T:
        for index, module in enumerate(self._spec.modules):
            x = _apply(ops, module, _name(index), x)
        return x

    @property
    def sizes(self) -> tuple[int, int]:
        """Return the longest text, in tokens, and how many ids config.json knows, 0 if it does not say."""
        given = self._spec.config.get("vocab_size")
        return self._spec.max_seq_length, given if isinstance(given, int) else 0

    def check_width(self, given: int) -> None:
        """Raise ModelError unless a vector has as many numbers as the model's description says."""
        if given != self._spec.dimensions:
            raise ModelError(
                f"{self.weights.path}: its shapes do not fit config.json: a vector has {given} numbers, where "
                f"{self._spec.dimensions} are needed."
            )

    def check_all_read(self) -> None:
        """Raise ModelError if `vectors` left out weights that belong to the model."""
        self.weights.check_all_read(self.encoder.unused)


def _name(index: int) -> str:
    return f"modules.{index}"


def _apply(ops: PooledOps[T], module: Module, name: str, x: T) -> T:
    match module:
        case Dense():
            x = ops.linear(f"{name}.linear", x, bias=module.bias)
            return x if module.activation == "identity" else ops.activation(module.activation, x)
        case LayerNorm():
            return ops.layer_norm(f"{name}.norm", x, _LAYER_NORM_EPS)
        case _:
            return ops.normalize(x)
