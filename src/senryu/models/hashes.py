"""What the files of a model folder are: their sha256, recorded once when a model is pulled.

Knows manifest.json, which vouches for a file while its size and mtime are those that were recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from senryu.errors import ModelError
from senryu.models.entries import CatalogEntry
from senryu.models.spec import ModelSpec

MANIFEST = "manifest.json"


def file_hashes(spec: ModelSpec) -> dict[str, str]:
    """Return the sha256 of each file that decides the model's vectors, by its path in the folder.

    Taken from the manifest written at pull while size and mtime agree with it, else computed.
    """
    manifest = _read_manifest(spec.folder)
    return {path: _file_hash(spec.folder, path, manifest) for path in spec.files}


def write_manifest(folder: Path, entry: CatalogEntry, source: str) -> None:
    """Record the verified files of a pulled model, so that no later start has to hash them again."""
    recorded = {}
    for path, pin in entry.files.items():
        stat = (folder / path).stat()
        recorded[path] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": pin.sha256}
    content = {"hf_id": entry.hf_id, "revision": entry.revision, "source": source, "files": recorded}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_pulled(entry: CatalogEntry, models_dir: Path) -> bool:
    """Tell whether every file of the entry is here with the size and sha256 that the catalog pins."""
    folder = models_dir / entry.id
    manifest = _read_manifest(folder)
    return all(
        _has_size(folder / path, pin.size) and _file_hash(folder, path, manifest) == pin.sha256
        for path, pin in entry.files.items()
    )


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
