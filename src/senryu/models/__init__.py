"""What a model is: its facts, the catalog of those that can be fetched, and how a name becomes one.

Nothing here knows tensors, tokenising or HTTP; fetching is senryu.pull's, and whether an architecture can be
computed the encoders'.
"""

from __future__ import annotations

import os
from pathlib import Path

from senryu.errors import ModelError
from senryu.models.entries import CatalogEntry, FilePin, Wheel, catalog, find
from senryu.models.folder import load_spec
from senryu.models.hashes import file_hashes, is_pulled, sha256_of, write_manifest
from senryu.models.spec import ModelSpec, Pooling

__all__ = [
    "CatalogEntry",
    "FilePin",
    "ModelSpec",
    "NotPulled",
    "Pooling",
    "Wheel",
    "catalog",
    "file_hashes",
    "find",
    "is_pulled",
    "load_spec",
    "resolve",
    "sha256_of",
    "write_manifest",
]


class NotPulled(ModelError):
    """Raise when a catalog model's files are not here, or not what the catalog says."""

    def __init__(self, entry: CatalogEntry, models_dir: Path) -> None:
        super().__init__(f"{entry.id} is not in {models_dir}; fetch it with: senryu pull {entry.id}")
        self.entry = entry


def resolve(name: str, models_dir: Path) -> ModelSpec:
    """Load the model that a person named: one of the catalog, or a folder.

    Raises NotPulled for a catalog model that is not here, ModelError for an unknown name or a folder that
    cannot be served. Never another model than the one named.
    """
    if entry := find(name):
        if not is_pulled(entry, models_dir):
            raise NotPulled(entry, models_dir)
        return load_spec(models_dir / entry.id, entry)
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file() or (folder.is_dir() and _looks_like_a_path(name)):
        return load_spec(folder)
    raise ModelError(
        f"{name!r} is neither in the catalog ({', '.join(entry.id for entry in catalog())}) "
        "nor a folder with a model's files; name one of these or give the path of a folder."
    )


def _looks_like_a_path(name: str) -> bool:
    return os.sep in name or name.startswith((".", "~"))
