"""Reads safetensors by memory map: no copy, no code, no PyTorch. Knows the file format, not the model.

Format: https://github.com/huggingface/safetensors#format (8 bytes of header length, JSON header, raw tensors).
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from senryu.errors import ModelError

_MAX_HEADER_BYTES = 100_000_000  # the format's own bound
_MAX_AXES = 32  # NumPy 1's
_MAX_NUMBERS = 1 << 48  # in a tensor; NumPy refuses to shape more, even where one size is 0
_DTYPES: Mapping[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}

# How the first BERT checkpoints, converted from TensorFlow, name a layer normalisation's two vectors.
_OLD_ENDINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True, slots=True)
class _Tensor:
    path: Path
    data: mmap.mmap
    dtype: str
    shape: list[int]
    begin: int

    def read(self) -> NDArray[np.float32]:
        stored = self.stored()
        if self.dtype == "BF16":  # the upper half of a float32
            wide = stored.astype(np.uint32)
            wide <<= 16  # NOTE: in place: what is freed between two tensors stays with the process
            return wide.view(np.float32)
        return stored.astype(np.float32, copy=False)

    def stored(self) -> NDArray[Any]:
        count = math.prod(self.shape)
        return np.frombuffer(self.data, _DTYPES[self.dtype], count, self.begin).reshape(self.shape)


class Weights:
    """The tensors of one model's safetensors files, by name, and a note of which were read."""

    def __init__(self, files: Sequence[Path], prefixes: Iterable[str] = ()) -> None:
        """Map the files and check their headers. Raises ModelError naming the file and what is wrong.

        `prefixes` of names are left out: those of a whole model around the one that is wanted.
        """
        self.path = files[0]  # for complaints
        self._tensors: dict[str, _Tensor] = {}
        self._read: set[str] = set()
        for path in files:
            self._take(path, lambda name: _renamed(name, prefixes))

    def add(self, path: Path, name: str) -> None:
        """Add a file's tensors as `{name}.…`."""
        self._take(path, lambda tensor: f"{name}.{tensor}")

    def _take(self, path: Path, rename: Callable[[str], str]) -> None:
        for name, tensor in _tensors(path).items():
            if self._tensors.setdefault(rename(name), tensor) is not tensor:
                raise ModelError(f"{path}: the tensor {name!r} is there twice.")

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32; a view of the file where it is stored so, else a converted copy."""
        return self._find(name).read()

    def widened(self, name: str) -> int:
        """Return the bytes that a tensor takes as float32, 0 where it is stored so and need not be copied."""
        tensor = self._find(name)
        return 0 if tensor.dtype == "F32" else 4 * math.prod(tensor.shape)

    def bf16(self, name: str) -> NDArray[np.uint16] | None:
        """Return a tensor's bits as a view of the file if it is stored as bf16, else None."""
        tensor = self._find(name)
        return tensor.stored() if tensor.dtype == "BF16" else None

    def expect(self, name: str, *sizes: int | None) -> None:
        """Raise ModelError unless a tensor has this shape; None is for any size."""
        tensor = self._find(name)
        pairs = zip(tensor.shape, sizes, strict=False)
        if len(tensor.shape) != len(sizes) or any(wanted not in (None, size) for size, wanted in pairs):
            wanted = ", ".join("any" if size is None else str(size) for size in sizes)
            raise ModelError(
                f"{tensor.path}: its shapes do not fit config.json: the tensor {name!r} is {tensor.shape}, "
                f"where [{wanted}] is needed."
            )

    def share(self, name: str, part: tuple[int, int]) -> NDArray[np.float32]:
        """Return the i-th of n equal shares of a tensor's rows, for a part (i, n)."""
        index, parts = part
        whole = self[name]
        rows = len(whole) // parts
        return whole[index * rows : (index + 1) * rows]

    def expect_table(self, name: str, rows: int, width: int | None) -> int:
        """Return a table's width. Raises ModelError unless it has so many rows, and `width` if that is given."""
        self.expect(f"{name}.weight", None, width)
        given, found = self.shape(f"{name}.weight")
        self.expect(f"{name}.weight", max(rows, given), found)
        return found

    def expect_linear(self, name: str, inputs: int | None, parts: int, *, bias: bool) -> int:
        """Return a layer's outputs. Raises ModelError unless it takes `inputs` and can be shared out into `parts`."""
        self.expect(f"{name}.weight", None, inputs)
        outputs = self.shape(f"{name}.weight")[0]
        self.expect(f"{name}.weight", outputs // parts * parts, inputs)
        if bias:
            self.expect(f"{name}.bias", outputs)
        return outputs

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the sizes of a tensor."""
        return tuple(self._find(name).shape)

    def _find(self, name: str) -> _Tensor:
        if name not in self._tensors:
            raise ModelError(f"{self.path}: the tensor {name!r} is missing.")
        self._read.add(name)
        return self._tensors[name]

    def release(self) -> None:
        """Give back the memory that reading took: the files' pages, and what widened copies have left behind.

        What is read again comes back by itself. NOTE: for an engine that has copied nearly all, and on Linux: there
        the files would stay in the process's resident size, and the C library keeps what is freed between two tensors.
        """
        for data in {tensor.data for tensor in self._tensors.values()}:
            data.madvise(mmap.MADV_DONTNEED)
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's alone
            trim(0)

    def check_all_read(self, unused: Iterable[str]) -> None:
        """Raise ModelError if a tensor was never read: then the model is not the one that was computed."""
        left = sorted(n for n in self._tensors.keys() - self._read if not n.startswith(tuple(unused)))
        if left:
            raise ModelError(
                f"{self.path}: {len(left)} tensors are not part of the architecture, as {left[0]!r}."
            )


def _renamed(name: str, prefixes: Iterable[str]) -> str:
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    for old, new in _OLD_ENDINGS.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            # NOTE: copy on write, because engines take over only writeable memory without copying it.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}.") from None


def _tensors(path: Path) -> dict[str, _Tensor]:
    data = _map(path)
    length = int.from_bytes(data[:8], "little")
    base = 8 + length
    if len(data) < 8 or length > _MAX_HEADER_BYTES or base > len(data):
        raise ModelError(f"{path}: not a safetensors file, or cut off in its header.")
    try:
        header = json.loads(data[8:base])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _tensor(path, name, entry, base, data) for name, entry in entries.items()}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: its header is damaged: {error}.") from None


def _tensor(path: Path, name: str, entry: dict[str, Any], base: int, data: mmap.mmap) -> _Tensor:
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _DTYPES:
        raise ModelError(f"{path}: tensor {name!r} is {dtype}; served are {', '.join(_DTYPES)}.")
    if not (_are_whole([begin, end]) and _is_shape(shape)):
        raise ModelError(f"{path}: tensor {name!r}: its shape or its place is not in whole numbers from 0.")
    if end - begin != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
        raise ModelError(f"{path}: tensor {name!r}: its size and its shape {shape} disagree.")
    if base + end > len(data):
        raise ModelError(
            f"{path}: cut off: {len(data)} bytes, but tensor {name!r} ends at {base + end}. Pull it again."
        )
    return _Tensor(path, data, dtype, shape, base + begin)


def _is_shape(given: Any) -> bool:
    is_list = isinstance(given, list) and len(given) <= _MAX_AXES and _are_whole(given)
    return is_list and math.prod(size or 1 for size in given) <= _MAX_NUMBERS


def _are_whole(given: Sequence[Any]) -> bool:
    return all(type(number) is int and number >= 0 for number in given)
