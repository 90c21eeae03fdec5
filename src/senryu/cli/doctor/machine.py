"""What everything runs on: versions, processor, memory, clock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from senryu.cli.doctor.finding import Finding, Installation, ok, warning, wrong
from senryu.cli.times import in_words, shown
from senryu.cli.version import NOT_INSTALLED, versions
from senryu.config import Settings
from senryu.engine import choose_engine, choose_precision, kernels, memory_bytes, suits_kernels
from senryu.engine.machine import (
    cgroup_quota,
    native_precisions,
    processor_name,
    usable_memory,
    usable_threads,
)
from senryu.errors import ModelError, SettingError
from senryu.models import ModelSpec, resolve
from senryu.types import Precision

MIB = 1 << 20
WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)  # no clock that is right says less
ENGINES = {
    "native": "our own kernels",
    "openvino": "OpenVINO",
    "exported": "OpenVINO, by the graph of its repository",
    "reference": "the reference in float64, which is slow",
}
SLACK = timedelta(minutes=1)  # between the clocks of machines that share a database


def packages(_: Installation) -> Iterator[Finding]:
    """Check that what computes vectors is installed."""
    found = versions()
    text = ", ".join(f"{name} {number}" for name, number in found.items())
    if missing := [name for name, number in found.items() if number == NOT_INSTALLED]:
        yield wrong("versions", text, f"pip install {' '.join(missing)}")
    else:
        yield ok("versions", text)


def processor(installation: Installation) -> Iterator[Finding]:
    """Check that threads and precision are ones that the processor has for us."""
    settings, threads = installation.settings, usable_threads()
    found = f"{processor_name()}, {_threads(threads)}"
    try:
        precision = choose_precision(settings.precision)
    except SettingError as error:
        yield wrong("processor", str(error).rstrip("."), f"set precision to auto or {native_precisions()[0]}")
        return
    if settings.threads is not None and settings.threads > threads:
        yield warning(
            "processor",
            f"{found}, and the setting threads is {settings.threads}: more than there are take turns, and wait",
            "unset threads, or give the server more processors",
        )
    else:
        yield ok("processor", f"{found}, {precision}")


def _threads(threads: int) -> str:
    quota = cgroup_quota()
    limit = f", the cgroup allows {quota:g}" if quota else ""
    return f"{threads} of {os.cpu_count()} threads are ours{limit}"


def engine(installation: Installation) -> Iterator[Finding]:
    """Say what computes each model, and whether our kernels are missing where the processor could run them."""
    settings = installation.settings
    with suppress(SettingError):
        precision = choose_precision(settings.precision)
        chosen = {
            spec.id: choose_engine(spec, precision) if settings.engine == "auto" else settings.engine
            for spec in _models(settings)
        }
        found = ", ".join(f"{model_id}: {ENGINES[name]}" for model_id, name in chosen.items())
        if settings.engine in ("auto", "native") and _lacks_kernels(precision):
            yield warning(
                "engine",
                f"{found or 'no model is here yet'}; our own kernels could run here: they are not built, or old",
                "`make serve` builds them: apt install gcc libc6-dev, or let it fetch a compiler",
            )
        elif found:
            yield ok("engine", found)


def _lacks_kernels(precision: Precision) -> bool:
    """Tell whether it is the library alone that is missing, or of other sources."""
    return suits_kernels(precision) and not kernels.run(precision)


def memory(installation: Installation) -> Iterator[Finding]:
    """Check that the models that are served from the start have room in the memory that all models may have."""
    settings, total = installation.settings, usable_memory()
    asked = settings.memory_mib and settings.memory_mib * MIB
    allowed = asked or total * 4 // 5
    needed = sum(_needs(settings))
    found = f"{total // MIB:,} MiB, {allowed // MIB:,} of them for models, which need {needed // MIB:,}"
    if needed > allowed:
        yield wrong("memory", found, "serve fewer or smaller models, or raise memory_mib")
    elif allowed > total:
        yield warning("memory", found, "unset memory_mib, or make it smaller: it is more than there is")
    else:
        yield ok("memory", found)


def _needs(settings: Settings) -> Iterator[int]:
    streams = settings.threads or usable_threads()
    for spec in _models(settings):
        with suppress(ModelError, SettingError):
            yield memory_bytes(spec, choose_precision(settings.precision), streams, settings.engine)


def _models(settings: Settings) -> Iterator[ModelSpec]:
    for name in settings.models:
        # NOTE: what cannot be loaded is told of by the checks of the processor and of the models
        with suppress(ModelError):
            yield resolve(name, settings.paths.models)


def clock(installation: Installation) -> Iterator[Finding]:
    """Check that the clock has not gone back: keys are refused by it when they expire."""
    known, now = installation.known, datetime.now(UTC)
    made = [key.created_at for key in known.keys] + [resource.created_at for resource in known.resources]
    latest = max([WRITTEN, *made])
    if latest > now + SLACK:
        found = f"it says {shown(now)}, and what happened {in_words(latest - now)} after that is past"
        yield wrong("clock", found, "set it, or have it set by NTP: timedatectl set-ntp true")
    else:
        yield ok("clock", shown(now))
