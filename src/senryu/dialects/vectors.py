"""Rows of codes → what stands for them in a JSON answer, and the answer → bytes. Knows no vendor's names.

NOTE: orjson holds the interpreter's lock until it returns, so an answer of many rows is written in slices: on a thread
it then never keeps the event loop waiting for more than one of them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import orjson

from senryu.types import Codes

SLICE_ROWS = 96  # as many as an answer on the event loop has


def base64_rows(codes: Codes) -> list[str]:
    """Write each row as the base64 of its little-endian bytes."""
    little_endian = codes.astype(codes.dtype.newbyteorder("<"), copy=False)
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in little_endian]


def dumps(value: Any) -> bytes:
    """Write JSON; floats of an array as the shortest decimals that give back the same float32."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def array(items: Sequence[Any]) -> Any:
    """Return what `dumps` writes as an array of the items: itself, or if they are many, slices already written."""
    if len(items) <= SLICE_ROWS:
        return items
    slices = [dumps(items[start : start + SLICE_ROWS])[1:-1] for start in range(0, len(items), SLICE_ROWS)]
    return orjson.Fragment(b"[" + b",".join(slices) + b"]")
