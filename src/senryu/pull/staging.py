"""The folder in which a model grows, until every file of it is the one that the catalog pins.

Knows files and hashes; nothing of where the bytes come from. An OSError that leaves it is the disk's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from senryu.engine.int8 import FILE as CALIBRATION
from senryu.errors import SourceError
from senryu.models import FilePin, fingerprint_of, matches


class Progress(Protocol):
    """What a pull tells the person who waits. `start` comes only if there is something to fetch."""

    def start(self, total: int) -> None:
        """Begin, with the bytes of the whole model."""
        ...

    def update(self, done: int) -> None:
        """Say how many of these bytes are here; fewer than before if a file had to be begun again."""
        ...

    def notice(self, line: str) -> None:
        """Say something in words."""
        ...


class SourceRefused(SourceError):
    """Raise when another source may have what this one has not; the message continues the source's name."""


class WrongFile(SourceRefused):
    """Raise when a file is not the one that the catalog pins."""


@dataclass(frozen=True, slots=True)
class Staging:
    """The folder in which a model grows: verified files under their own names, others as .part."""

    folder: Path
    files: Mapping[str, FilePin]
    progress: Progress

    def missing(self) -> list[str]:
        return [path for path in self.files if not (self.folder / path).exists()]

    def part(self, path: str) -> Path:
        part = self.folder / (path + ".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        return part

    def begun(self) -> int:
        """Return how many bytes of what is missing are here as parts."""
        parts = ((self.folder / f"{path}.part", self.files[path].size) for path in self.missing())
        return sum(min(part.stat().st_size, size) for part, size in parts if part.is_file())

    def report(self, extra: int) -> None:
        here = sum(pin.size for path, pin in self.files.items() if (self.folder / path).exists())
        self.progress.update(here + extra)

    def write(self, path: str, chunks: Iterable[bytes], offset: int) -> int:
        """Add the chunks to a file's part, which ends at `offset`, or write it anew at 0; return its end."""
        with self.part(path).open("ab" if offset else "wb") as file:
            for chunk in chunks:
                offset += file.write(chunk)
                if offset > self.files[path].size:
                    break
                self.report(offset)
            file.flush()
            os.fsync(file.fileno())
        return offset

    def accept(self, path: str) -> None:
        """Give a part its name if it is the pinned file, else remove it. Raises WrongFile."""
        part, pin = self.part(path), self.files[path]
        size, found = part.stat().st_size, fingerprint_of(part, pin)
        if (size, found) != (pin.size, pin.sha256 or pin.blob):
            part.unlink()
            kind = "sha256" if pin.sha256 else "git blob"
            raise WrongFile(
                f"has another {path}: expected {pin.size} bytes, {kind} {pin.sha256 or pin.blob}, got {size}, {found}"
            )
        part.rename(self.folder / path)
        self.report(0)

    def recover(self, existing: Path) -> None:
        """Drop what is staged but wrong; copy what is right in `existing`, the model's folder until now.

        NOTE: and what int8 was calibrated to, which is the user's and nowhere else.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, pin in self.files.items():
            if matches(self.folder / path, pin):
                continue
            (self.folder / path).unlink(missing_ok=True)
            if matches(existing / path, pin):
                shutil.copyfile(existing / path, self.part(path))
                self.part(path).rename(self.folder / path)
        if (existing / CALIBRATION).is_file():
            shutil.copyfile(existing / CALIBRATION, self.folder / CALIBRATION)

    def sweep(self) -> None:
        """Remove all that does not belong to the model."""
        kept = {*self.files, CALIBRATION}
        for path in self.folder.rglob("*"):
            if path.is_file() and path.relative_to(self.folder).as_posix() not in kept:
                path.unlink()


def readable(size: int) -> str:
    """Write a number of bytes as people read it."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
