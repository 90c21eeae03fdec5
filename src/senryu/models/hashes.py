"""What the files of a model folder are: their sha256, recorded once when a model is pulled.

Knows manifest.json, which vouches for a file while its size and mtime are those that were recorded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from senryu.errors import ModelError
from senryu.models.entries import CatalogEntry, FilePin
from senryu.models.spec import ModelSpec

MANIFEST = "manifest.json"


def file_hashes(spec: ModelSpec) -> dict[str, str]:
    """Return the sha256 of each file that decides the model's vectors, by its path in the folder.

    Taken from the manifest written at pull while size and mtime agree with it, else computed.
    """
    return hash_files(spec.folder, spec.files)


def hash_files(folder: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of files of a model folder by path; see `file_hashes`."""
    manifest = _read_manifest(folder)
    return {path: _file_hash(folder, path, manifest) for path in paths}


def write_manifest(folder: Path, entry: CatalogEntry, source: str) -> None:
    """Record the verified files of a pulled model, so that no later start has to hash them again."""
    recorded = {}
    for path, pin in entry.files.items():
        stat = (folder / path).stat()
        sha256 = pin.sha256 or sha256_of(folder / path)
        recorded[path] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}
    content = {"hf_id": entry.hf_id, "revision": entry.revision, "source": source, "files": recorded}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def matches(path: Path, pin: FilePin) -> bool:
    """Tell whether a file is what it must be, to the byte."""
    return _has_size(path, pin.size) and fingerprint_of(path, pin) == (pin.sha256 or pin.blob)


def fingerprint_of(path: Path, pin: FilePin) -> str:
    """Return a file's hash of the kind that the pin has."""
    if pin.sha256:
        return sha256_of(path)
    content = path.read_bytes()
    # Source: git's own, https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def pinned(entry: CatalogEntry, models_dir: Path) -> CatalogEntry | None:
    """Return the entry with its files: the catalog's, else those that the first pull recorded; None without either."""
    if entry.files:
        return entry
    try:
        content = json.loads((models_dir / entry.folder_name / MANIFEST).read_bytes())
        pins = {path: FilePin(file["sha256"], file["size"]) for path, file in content["files"].items()}
        revision = str(content["revision"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not pins or content.get("hf_id") != entry.hf_id or not _is_of(entry, revision):
        return None
    return replace(entry, files=pins, revision=revision)


def _is_of(entry: CatalogEntry, commit: str) -> bool:
    is_commit = entry.revision is not None and re.fullmatch("[0-9a-f]{40}", entry.revision)
    return not is_commit or entry.revision == commit


def is_pulled(entry: CatalogEntry, models_dir: Path) -> bool:
    """Tell whether every file of the entry is here with the size and sha256 that the catalog or the first pull says."""
    known = pinned(entry, models_dir)
    if known is None:
        return False
    folder = models_dir / entry.folder_name
    manifest = _read_manifest(folder)
    return all(
        _has_size(folder / path, pin.size) and _file_hash(folder, path, manifest) == pin.sha256
        for path, pin in known.files.items()
    )


def recorded_hashes(folder: Path) -> dict[str, str]:
    """Return what a pull recorded of a folder: the sha256 of files by path; nothing where there was no pull."""
    return {path: str(file["sha256"]) for path, file in _read_manifest(folder).items() if "sha256" in file}


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    # NOTE: a folder of the user's may hold a manifest.json of another meaning; it then vouches for nothing.
    try:
        recorded = json.loads((folder / MANIFEST).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return recorded if isinstance(recorded, dict) else {}


def _file_hash(folder: Path, path: str, manifest: Mapping[str, Any]) -> str:
    try:
        stat = (folder / path).stat()
        match manifest.get(path):
            case {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": str(recorded)}:
                return recorded
        return sha256_of(folder / path)
    except OSError as error:
        raise ModelError(f"{folder / path}: cannot be read: {error.strerror}.") from None


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
