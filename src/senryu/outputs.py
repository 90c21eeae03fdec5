"""Vectors → output types: dimensions → normalise → quantise → pack. The bit conventions of the contract.

Every row is computed from that row alone. Knows no wire encoding; the dialects turn rows into JSON or base64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from senryu.types import Codes, OutputType, Vectors

_EPSILON = np.float32(1e-12)  # torch.nn.functional.normalize's, which sentence-transformers calls


def encode(
    vectors: Vectors, dimensions: int | None, output_types: Iterable[OutputType]
) -> Mapping[OutputType, Codes]:
    """Return the codes of each type, [B, D] or for the binary types [B, ⌈D/8⌉], from one set of vectors.

    `dimensions` keeps the first so many (Matryoshka, arXiv:2205.13147) before normalising.
    """
    return codes(normalise(vectors[:, :dimensions]), output_types)


def codes(unit: Vectors, output_types: Iterable[OutputType]) -> Mapping[OutputType, Codes]:
    """Return the codes of each type of rows that have length 1 already; see `encode`."""
    return {output_type: ENCODINGS[output_type](unit) for output_type in output_types}


def normalise(vectors: Vectors) -> Vectors:
    """Scale each row to length 1 in float32; a row of zeros stays, one whose length is no finite number is NaN."""
    rows = np.ascontiguousarray(vectors)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.add.reduce(np.square(rows), axis=1, keepdims=True))
        norms[~np.isfinite(norms)] = np.nan
        unit: Vectors = np.divide(rows, np.maximum(norms, _EPSILON))
    return unit


def to_int8(unit: Vectors) -> NDArray[np.int8]:
    """Return clip(floor(x·k), -128, 127) with k = 127·√D/3.2 in float32; at D = 1024 k is 1270."""
    k = np.float32(127.0 * math.sqrt(unit.shape[1]) / 3.2)
    codes: NDArray[np.int8] = np.clip(np.floor(unit * k), -128, 127).astype(np.int8)
    return codes


def to_uint8(unit: Vectors) -> NDArray[np.uint8]:
    """Return int8 + 128."""
    return (to_int8(unit).astype(np.int16) + 128).astype(np.uint8)


def to_ubinary(unit: Vectors) -> NDArray[np.uint8]:
    """Return one bit a dimension, x > 0, the first dimension in bit 7 of the first byte."""
    return np.packbits(unit > 0, axis=1)


def to_binary(unit: Vectors) -> NDArray[np.int8]:
    """Return ubinary - 128: offset binary, not two's complement."""
    return (to_ubinary(unit).astype(np.int16) - 128).astype(np.int8)


def _unchanged(unit: Vectors) -> Codes:
    return unit


ENCODINGS: Mapping[OutputType, Callable[[Vectors], Codes]] = {
    OutputType.FLOAT: _unchanged,
    OutputType.INT8: to_int8,
    OutputType.UINT8: to_uint8,
    OutputType.BINARY: to_binary,
    OutputType.UBINARY: to_ubinary,
}
