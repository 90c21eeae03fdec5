"""The engines that run encoders of ours: by name, and skipped with the reason where this machine lacks one."""

from __future__ import annotations

import pytest

from senryu import engine
from senryu.engine import kernels
from senryu.models import ModelSpec
from senryu.types import Precision

OURS = ("native", "openvino")


def skip_without_kernels(precision: Precision = Precision.F32) -> None:
    if not kernels.run(precision):
        pytest.skip(f"no kernels for {precision.value} here: they need AVX-512, and a library that is built")


def load(
    spec: ModelSpec, chosen: str, precision: Precision = Precision.F32, threads: int = 1
) -> engine.Engine:
    """Load a model into the engine that is asked for, never into another."""
    if chosen == "native":
        skip_without_kernels(precision)
    loaded = engine.load(spec, precision=precision, threads=threads, engine=chosen)
    assert loaded.name == chosen
    return loaded
