"""The compiled kernels: loads the library that build.py makes of the C beside it, and says what it can run here.

Knows the C's structures, field by field as plan.h has them, and the processor's flags; nothing of models.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum, StrEnum
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from senryu.engine.machine import between_products, processor_flags
from senryu.types import Precision

LIBRARY = Path(__file__).with_name("senryu_kernels.so")

# What a library of other sources would misunderstand; plan.h's too.
VERSION = 7
ALIGNMENT = 64
COLUMNS = 64  # of the widest panel of a packed weight
PLACES = 256  # of a desk
WORD = 4  # numbers of the narrowest format that are multiplied together


class NotComputed(Exception):
    """Raise for a model that the kernels do not compute, and another engine does."""


class Format(IntEnum):
    """How a number of a tensor is stored."""

    F32 = 0
    BF16 = 1
    U8 = 2

    @property
    def bytes(self) -> int:
        """Return the bytes of a number, as the kernels multiply it on this processor."""
        if self is Format.U8 and instruction_set() is InstructionSet.AVX2:
            return 2  # NOTE: products of bytes are not summed up without overflow there
        return (4, 2, 1)[self]


FORMATS = {Precision.F32: Format.F32, Precision.BF16: Format.BF16}


class InstructionSet(StrEnum):
    """What the library is compiled for, the widest first. Those that multiply a format do it with the same bits."""

    AVX512 = "avx512"
    AVX2 = "avx2"


_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"})

# The processor flags under which an instruction set multiplies a format.
_FLAGS: dict[InstructionSet, dict[Format, frozenset[str]]] = {
    InstructionSet.AVX512: {
        Format.F32: _AVX512,
        Format.BF16: _AVX512 | {"avx512_bf16"},
        Format.U8: _AVX512 | {"avx512_vnni"},
    },
    InstructionSet.AVX2: {Format.F32: _AVX2, Format.U8: _AVX2},
}


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
        *((name, c_int32) for name in ("is_done", "has_company")),
    )


class Gang(Structure):
    """The step of a batch that threads without one help with."""

    _fields_ = (
        ("shares", c_int64),
        *((name, c_int32) for name in ("done", "is_open")),
        *((name, c_void_p) for name in ("run", "step")),
        *((name, c_int64) for name in ("begin", "end")),
    )


class Desk(Structure):
    """Where a crew finds its tasks."""

    _fields_ = (
        ("counts", c_int64),
        *((name, c_int32) for name in ("news", "sleepers", "is_closed", "bell")),
        ("tasks", c_void_p * PLACES),
        ("gang", Gang),
    )


def instruction_set() -> InstructionSet | None:
    """Return the widest one that this processor has, None where it has none of them."""
    flags = processor_flags()
    return next((each for each, formats in _FLAGS.items() if formats[Format.F32] <= flags), None)


def library() -> Any:
    """Load what the library has for this processor. Raises OSError where that is nothing, or of other sources."""
    of = instruction_set()
    if of is None:
        raise OSError(f"{LIBRARY}: has nothing for a processor without AVX2 and FMA")
    return _loaded(LIBRARY, of)


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "serve": (None, (POINTER(Desk),)),
    "run": (None, (POINTER(PlanTable), POINTER(BatchTable), c_void_p, c_void_p)),
    "to_length_1": (None, (c_void_p, c_int64, c_int64)),
    "pack": (None, (c_int32, c_void_p, c_int64, c_int64, c_void_p)),
}
# NOTE: with the interpreter's lock held: to give it away for so little means to wait for it afterwards.
_SHORT_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "plan_version": (c_int32, ()),
    "sizes": (c_int64, (c_int32,)),
    "arena_bytes": (c_int64, (POINTER(PlanTable), POINTER(BatchTable), c_int32, c_int32)),
    "post": (c_int32, (POINTER(Desk), POINTER(Task))),
    "withdraw": (c_int32, (POINTER(Desk),)),
    "dismiss": (None, (POINTER(Desk),)),
}


@cache
def _loaded(path: Path, of: InstructionSet) -> Any:
    others = OSError(f"{path}: was made of other sources; build it again")
    functions: dict[str, Any] = {}
    for opened, table in ((ctypes.CDLL(str(path)), _FUNCTIONS), (ctypes.PyDLL(str(path)), _SHORT_FUNCTIONS)):
        for name, (result, arguments) in table.items():
            function = functions[name] = getattr(opened, f"senryu_{of}_{name}", None)
            if not function:
                raise others
            function.restype, function.argtypes = result, arguments
    structures = (Slot, Step, PlanTable, BatchTable, Task, Desk)
    sizes = [functions["sizes"](index) for index in range(len(structures))]
    if functions["plan_version"]() != VERSION or sizes != [ctypes.sizeof(each) for each in structures]:
        raise others
    return SimpleNamespace(**functions)


def suit(precision: Precision) -> bool:
    """Tell whether this processor multiplies in a precision by the kernels, were there a library."""
    formats = {FORMATS[between_products(precision)], *((Format.U8,) if precision is Precision.INT8 else ())}
    of = instruction_set()
    needed = _FLAGS[of] if of else {}
    return all(each in needed and needed[each] <= processor_flags() for each in formats)


def lack() -> str | None:
    """Return why there is no library for this processor, None where there is one."""
    try:
        library()
    except OSError as error:
        return str(error)
    return None


def run(precision: Precision) -> bool:
    """Tell whether there is a library, and this processor multiplies in a precision by it."""
    return suit(precision) and lack() is None


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
    library().pack(of, weight.ctypes.data, outputs, inputs, packed.ctypes.data)
    return packed
