"""Architectures, one file each, and the table that finds them by config.json's `model_type`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from senryu.encoders import bert
from senryu.encoders.ops import Ops, T
from senryu.errors import ModelError


@dataclass(frozen=True, slots=True)
class Encoder:
    """An architecture bound to one model's configuration."""

    forward: Callable[[Ops[Any]], Any]
    unused: tuple[str, ...]  # prefixes of weights that checkpoints carry and the encoder never reads

    def __call__(self, ops: Ops[T]) -> T:
        return self.forward(ops)  # type: ignore[no-any-return]


def _bert(config: Mapping[str, Any]) -> Encoder:
    parsed = bert.BertConfig.parse(config)
    return Encoder(lambda ops: bert.forward(ops, parsed), bert.UNUSED)


ENCODERS: Mapping[str, Callable[[Mapping[str, Any]], Encoder]] = {"bert": _bert}


def find(architecture: str, config: Mapping[str, Any]) -> Encoder:
    """Return the encoder for a config.json. Raises ModelError for an architecture that has no file here."""
    if architecture not in ENCODERS:
        raise ModelError(
            f"config.json: model_type {architecture!r} cannot be served; served are {', '.join(ENCODERS)}."
        )
    return ENCODERS[architecture](config)
