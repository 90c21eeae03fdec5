"""What this machine offers an engine: processor threads that are really ours, and native number formats."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from senryu.types import Precision

# Processor flags (x86: /proc/cpuinfo) under which bf16 products run natively. NOTE: without one of them
# OpenVINO emulates bf16, and then the same text gives different bits in different batches.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})

# Under one of these, products of 8-bit integers are summed in one instruction.
_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def usable_threads() -> int:
    """Count the processors that the affinity mask and the cgroup's quota leave to this process, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, min(allowed, math.ceil(quota)) if quota else allowed)


def cgroup_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return the smallest processor quota over the process's cgroup and its parents, in processors.

    Source: the kernel's admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst (v1).
    """
    quotas = [quota for folder in _cgroup_folders(root, own) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _cgroup_folders(root: Path, own: Path, controller: str = "cpu") -> list[Path]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return [root]
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base = root / controller if controller in controllers.split(",") else root
        folder = base / path.lstrip("/")
        folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    return folders or [root]


def _quota_of(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):  # "max" is no limit
        return None


def usable_memory(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes of memory that the machine has, or less where a cgroup leaves less to this process."""
    folders = _cgroup_folders(root, own, "memory")
    limits = [limit for folder in folders if (limit := _memory_limit(folder)) is not None]
    return min(limits, default=_installed_memory())


def _installed_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            limit = int((folder / name).read_text())  # "max" is none
        except (OSError, ValueError):
            continue
        if limit < _installed_memory():  # v1 says no limit by a huge number
            return limit
    return None


def native_precisions() -> tuple[Precision, ...]:
    """Return the precisions that the processor computes natively, the fastest first."""
    if processor_flags() & _BF16_FLAGS:
        return (Precision.BF16, Precision.F32)
    return (Precision.F32,)


def between_products(precision: Precision) -> Precision:
    """Return the precision of attention, and of whatever else int8 leaves as it is."""
    return native_precisions()[0] if precision is Precision.INT8 else precision


def multiplies_int8() -> bool:
    """Tell whether the processor multiplies 8-bit integers faster than what `native_precisions` names."""
    return bool(processor_flags() & _INT8_FLAGS)


# Under these, a processor multiplies whole tiles at once, many times as fast as by vectors.
_TILE_FLAGS = {Precision.BF16: "amx_bf16", Precision.INT8: "amx_int8"}


def has_tiles(precision: Precision) -> bool:
    """Tell whether the processor has tiles (Intel's AMX) for a precision."""
    return _TILE_FLAGS.get(precision) in processor_flags()


@cache
def processor_flags() -> frozenset[str]:
    """Return what /proc/cpuinfo calls the flags of the first processor; nothing where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def processor_name() -> str:
    """Return the processor's model name, as the operating system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    return platform.processor() or platform.machine()
