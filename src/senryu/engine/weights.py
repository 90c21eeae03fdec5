"""Reads safetensors by memory map: no copy, no code, no PyTorch. Knows the file format, not the model.

Format: https://github.com/huggingface/safetensors#format (8 bytes of header length, JSON header, raw tensors).
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senryu.errors import ModelError

_MAX_HEADER_BYTES = 100_000_000  # the format's own bound
_DTYPES: Mapping[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}


class Weights:
    """The tensors of one safetensors file, by name, and a note of which were read."""

    def __init__(self, path: Path) -> None:
        """Map the file and check its header. Raises ModelError naming the file and what is wrong."""
        self.path = path
        self._data = _map(path)
        self._entries = _checked_header(path, self._data)
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32; a view of the file where it is stored so, else a converted copy."""
        entry = self._entries.get(name)
        if entry is None:
            raise ModelError(f"{self.path}: the tensor {name!r} is missing.")
        self._read.add(name)
        begin, _ = entry["data_offsets"]
        count = math.prod(entry["shape"])
        stored: NDArray[Any] = np.frombuffer(self._data, _DTYPES[entry["dtype"]], count, begin)
        if entry["dtype"] == "BF16":  # the upper half of a float32
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32, copy=False).reshape(entry["shape"])

    def check_all_read(self, unused: Iterable[str]) -> None:
        """Raise ModelError if a tensor was never read: then the model is not the one that was computed."""
        left = sorted(n for n in self._entries.keys() - self._read if not n.startswith(tuple(unused)))
        if left:
            raise ModelError(
                f"{self.path}: {len(left)} tensors are not part of the architecture, as {left[0]!r}."
            )


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            # NOTE: copy on write, because engines take over only writeable memory without copying it.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}.") from None


def _checked_header(path: Path, data: mmap.mmap) -> dict[str, dict[str, Any]]:
    length = int.from_bytes(data[:8], "little")
    base = 8 + length
    if len(data) < 8 or length > _MAX_HEADER_BYTES or base > len(data):
        raise ModelError(f"{path}: not a safetensors file, or cut off in its header.")
    try:
        header = json.loads(data[8:base])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _checked_entry(path, name, entry, base, len(data)) for name, entry in entries.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: its header is damaged: {error}.") from None


def _checked_entry(path: Path, name: str, entry: dict[str, Any], base: int, size: int) -> dict[str, Any]:
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _DTYPES:
        raise ModelError(f"{path}: tensor {name!r} is {dtype}; served are {', '.join(_DTYPES)}.")
    if end - begin != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize or begin < 0:
        raise ModelError(f"{path}: tensor {name!r}: its size and its shape {shape} disagree.")
    if base + end > size:
        raise ModelError(
            f"{path}: cut off: {size} bytes, but tensor {name!r} ends at {base + end}. Pull it again."
        )
    return {"dtype": dtype, "shape": shape, "data_offsets": (base + begin, base + end)}
