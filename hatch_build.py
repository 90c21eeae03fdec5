"""What the wheel needs beyond its files: the kernels' library, and a name that says for which machines it is.

Hatchling runs it for every wheel, an editable one too. It knows where the kernels lie and how to have them built,
and must not know a compiler, nor fetch anything. Without a library the wheel is pure and fits every platform.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = "senryu/engine/kernels"
LIBRARY = "senryu_kernels.so"
# NOTE: the library asks a libc for mem* functions only, so this holds; glibc 2.17 is older than what OpenVINO's wheel
# runs on. It would hold for musl too, for which OpenVINO has no wheel.
TAG = "py3-none-manylinux_2_17_x86_64"


class KernelsHook(BuildHookInterface[Any]):
    """Add the library to a wheel, where it can be built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library in place; `version` is "standard" or "editable"."""
        kernels = Path(self.root, "src", KERNELS)
        command = [sys.executable, str(kernels / "build.py"), "--cc", os.environ.get("CC", "")]
        is_built = subprocess.run(command, check=False).returncode == 0  # noqa: S603  (our own script)
        if not is_built or version == "editable":
            return
        build_data["pure_python"] = False
        build_data["tag"] = TAG
        build_data["force_include"][str(kernels / LIBRARY)] = f"{KERNELS}/{LIBRARY}"
