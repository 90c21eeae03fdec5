"""Whether this machine can build the kernels, for tests that do."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys

import pytest

PROBE = "#include <stdint.h>\n#include <immintrin.h>\n__m512bh nothing;\n"


def find_compiler() -> str | None:
    """Return the path of the first compiler that knows the kernels' types and finds their headers."""
    for path in filter(None, map(shutil.which, ("cc", "gcc", "clang"))):
        command = [path, "-x", "c", "-std=c11", "-ffreestanding", "-fsyntax-only", "-"]
        if subprocess.run(command, input=PROBE.encode(), capture_output=True).returncode == 0:
            return path
    return None


HAS_KERNELS = (sys.platform, platform.machine()) == ("linux", "x86_64")
COMPILER = find_compiler() if HAS_KERNELS else None

needs_platform = pytest.mark.skipif(not HAS_KERNELS, reason="the kernels are for x86-64 Linux")
needs_compiler = pytest.mark.skipif(not COMPILER, reason="needs x86-64 Linux and gcc or clang, 10 or newer")
