"""The compiled kernels: loads the library that build.py makes of the C beside it, and says what it can run here.

Knows the C's structures, field by field as plan.h has them, and the processor's flags; nothing of models.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from senryu.engine.machine import between_products, processor_flags
from senryu.types import Precision

LIBRARY = Path(__file__).with_name("senryu_kernels.so")

# What a library of other sources would misunderstand; plan.h's too.
VERSION = 4
ALIGNMENT = 64
COLUMNS = 64  # of a panel of a packed weight
PLACES = 256  # of a desk
WORD = 4  # numbers of the narrowest format that are multiplied together

_BASE = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"})


class NotComputed(Exception):
    """Raise for a model that the kernels do not compute, and another engine does."""


class Format(IntEnum):
    """How a number of a tensor is stored."""

    F32 = 0
    BF16 = 1
    U8 = 2

    @property
    def bytes(self) -> int:
        """Return the bytes of a number."""
        return (4, 2, 1)[self]


FORMATS = {Precision.F32: Format.F32, Precision.BF16: Format.BF16}

_FLAGS = {Format.F32: _BASE, Format.BF16: _BASE | {"avx512_bf16"}, Format.U8: _BASE | {"avx512_vnni"}}


class Operation(IntEnum):
    """What a step does."""

    GATHER = 0
    ADD = 1
    ADD_ROW = 2
    MULTIPLY = 3
    SCALE = 4
    ACTIVATION = 5
    LINEAR = 6
    LAYER_NORM = 7
    RMS_NORM = 8
    ROTARY = 9
    NORMALIZE = 10
    CONVERT = 11
    ATTENTION = 12
    POOL = 13


class Slot(Structure):
    """A tensor in the arena."""

    _fields_ = (("row_bytes", c_int64), ("is_local", c_int32), ("padding", c_int32))


class Step(Structure):
    """One operation over slots."""

    _fields_ = (
        *((name, c_int32) for name in ("operation", "input", "in_format", "second", "third")),
        ("out", c_int32 * 3),
        *((name, c_int32) for name in ("inputs", "outputs", "activation", "heads", "key_heads")),
        *((name, c_int32) for name in ("is_causal", "window", "index", "is_flagged")),
        *((name, c_float) for name in ("epsilon", "factor")),
        *((name, c_void_p) for name in ("weight", "bias", "scale", "u8_scale", "u8_shift")),
    )


class PlanTable(Structure):
    """All steps of a model."""

    _fields_ = (
        ("steps", POINTER(Step)),
        ("slots", POINTER(Slot)),
        *(
            (name, c_int32)
            for name in ("step_count", "slot_count", "block", "attention", "padding_id", "head")
        ),
    )


class BatchTable(Structure):
    """Texts end to end."""

    _fields_ = (
        *((name, c_void_p) for name in ("input_ids", "lengths", "prompts")),
        *((name, c_int32) for name in ("tokens", "texts")),
    )


class Task(Structure):
    """A batch that a crew runs."""

    _fields_ = (
        *((name, c_void_p) for name in ("plan", "batch", "arena", "vectors")),
        *((name, c_int64) for name in ("began", "ended")),
        *((name, c_int32) for name in ("is_done", "padding")),
    )


class Desk(Structure):
    """Where a crew finds its tasks."""

    _fields_ = (
        ("counts", c_int64),
        *((name, c_int32) for name in ("news", "sleepers", "is_closed", "bell")),
        ("tasks", c_void_p * PLACES),
    )


@cache
def library() -> Any:
    """Load the library. Raises OSError where there is none, or one of other sources."""
    loaded: Any = ctypes.CDLL(str(LIBRARY))
    loaded.senryu_sizes.restype = c_int64
    structures = (Slot, Step, PlanTable, BatchTable, Task, Desk)
    if loaded.senryu_plan_version() != VERSION or [
        loaded.senryu_sizes(index) for index in range(len(structures))
    ] != [ctypes.sizeof(each) for each in structures]:
        raise OSError(f"{LIBRARY}: was made of other sources; build it again")
    # NOTE: with the interpreter's lock held: to give it away for so little means to wait for it afterwards.
    holding = ctypes.PyDLL(str(LIBRARY))
    for name, result, *arguments in (
        ("senryu_arena_bytes", c_int64, POINTER(PlanTable), POINTER(BatchTable), c_int32, c_int32),
        ("senryu_post", c_int32, POINTER(Desk), POINTER(Task)),
        ("senryu_withdraw", c_int32, POINTER(Desk)),
        ("senryu_dismiss", None, POINTER(Desk)),
    ):
        function = getattr(holding, name)
        function.restype, function.argtypes = result, arguments
        setattr(loaded, name, function)
    loaded.senryu_serve.restype = None
    loaded.senryu_serve.argtypes = (POINTER(Desk),)
    loaded.senryu_run.restype = None
    loaded.senryu_run.argtypes = (POINTER(PlanTable), POINTER(BatchTable), c_void_p, c_void_p)
    loaded.senryu_to_length_1.restype = None
    loaded.senryu_to_length_1.argtypes = (c_void_p, c_int64, c_int64)
    loaded.senryu_pack.restype = None
    loaded.senryu_pack.argtypes = (c_int32, c_void_p, c_int64, c_int64, c_void_p)
    return loaded


def run(precision: Precision) -> bool:
    """Tell whether there is a library, and this processor multiplies in this precision by it."""
    formats = {FORMATS[between_products(precision)], *((Format.U8,) if precision is Precision.INT8 else ())}
    if not all(_FLAGS[each] <= processor_flags() for each in formats):
        return False
    try:
        library()
    except (OSError, AttributeError):
        return False
    return True


def address(array: NDArray[Any]) -> int:
    """Return where the first number of a contiguous array lies."""
    # NOTE: NumPy's own way, for what is empty or must not be written, takes four times as long.
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(cast(Any, array)))
    except (TypeError, ValueError):
        return array.ctypes.data


def aligned(size: int) -> NDArray[np.uint8]:
    """Return bytes that begin at a multiple of ALIGNMENT, not initialised."""
    room = np.empty(size + ALIGNMENT, np.uint8)
    offset = -room.ctypes.data % ALIGNMENT
    return room[offset : offset + size]


def pack(of: Format, weight: NDArray[Any]) -> NDArray[np.uint8]:
    """Lay a weight [outputs, inputs], float32 or int8, out as the kernels read it; inputs a multiple of WORD."""
    outputs, inputs = weight.shape
    weight = np.ascontiguousarray(weight)
    packed = aligned(-(-outputs // COLUMNS) * COLUMNS * inputs * of.bytes)
    library().senryu_pack(of, weight.ctypes.data, outputs, inputs, packed.ctypes.data)
    return packed
