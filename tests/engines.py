"""The engines that run encoders of ours: by name, and skipped with the reason where this machine lacks one.

The kernels also by instruction set: an older processor's run on a newer one, which then says no more of itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import pytest

from senryu import engine
from senryu.engine import kernels, machine
from senryu.engine.kernels import InstructionSet
from senryu.models import ModelSpec
from senryu.types import Precision

OURS = ("native", "openvino")


def skip_without_kernels(precision: Precision = Precision.F32) -> None:
    if not kernels.run(precision):
        pytest.skip(
            f"no kernels for {precision.value} here: they need AVX2 or AVX-512, and a library that is built"
        )


def instruction_sets(precision: Precision = Precision.F32) -> list[InstructionSet]:
    """List those that this processor has, the widest first, and that the kernels compute a precision by."""
    widest = kernels.instruction_set()
    found = list(InstructionSet)[list(InstructionSet).index(widest) :] if widest else []
    return [each for each in found if _runs(precision, each)]


def _runs(precision: Precision, of: InstructionSet) -> bool:
    with only(of):
        return kernels.run(precision)


@contextmanager
def only(of: InstructionSet) -> Iterator[None]:
    """Hide what the processor has beyond an instruction set."""
    hidden = () if of is InstructionSet.AVX512 else ("avx512", "amx")
    flags = frozenset(flag for flag in kernels.processor_flags() if not flag.startswith(hidden))
    with ExitStack() as stack:
        for module in (machine, kernels):
            stack.enter_context(patch.object(module, "processor_flags", lambda: flags))
        yield


def load(
    spec: ModelSpec, chosen: str, precision: Precision = Precision.F32, threads: int = 1
) -> engine.Engine:
    """Load a model into the engine that is asked for, never into another."""
    if chosen == "native":
        skip_without_kernels(precision)
    loaded = engine.load(spec, precision=precision, threads=threads, engine=chosen)
    assert loaded.name == chosen
    return loaded
