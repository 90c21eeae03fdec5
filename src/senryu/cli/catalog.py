"""What `senryu models list --available` shows: the models that can be fetched by name, and what is known of each.

Knows how an entry is laid out; what it says is the catalog's. What a model's author does not say is "unknown".
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from senryu.cli.output import as_json, print_table
from senryu.models import CatalogEntry, catalog, is_pulled, pinned

UNKNOWN = "unknown"
LANGUAGES_SHOWN = 4
COLUMNS = ("Model", "Dimensions", "Tokens", "Languages", "Licence", "MB", "Pulled", "Proven", "Description")


def list_available(models_dir: Path, json_: bool) -> None:
    """Print the catalog."""
    if json_:
        click.echo(as_json([_listed(entry, models_dir) for entry in catalog()]))
        return
    print_table(COLUMNS, [_row(entry, models_dir) for entry in catalog()])


def _listed(entry: CatalogEntry, models_dir: Path) -> dict[str, Any]:
    known = pinned(entry, models_dir) or entry
    return {
        "id": entry.id,
        "aliases": entry.aliases,
        "hf_id": entry.hf_id,
        "revision": known.revision,
        "dimensions": entry.dimensions,
        "matryoshka": entry.matryoshka,
        "max_tokens": entry.max_tokens,
        "prompts": dict(entry.prompts),
        "languages": entry.languages,
        "licence": entry.licence or UNKNOWN,
        "gated": entry.gated,
        "size_bytes": known.size_bytes or (entry.megabytes or 0) * 1_000_000 or None,
        "description": entry.description,
        "proven": entry.proven,
        "pinned": bool(entry.files),
        "pulled": is_pulled(entry, models_dir),
    }


def _row(entry: CatalogEntry, models_dir: Path) -> tuple[object, ...]:
    sizes = sorted({*entry.matryoshka, entry.dimensions or 0} - {0}, reverse=True)
    return (
        entry.id + "".join(f" ({alias})" for alias in entry.aliases if alias.casefold() != entry.id),
        _or_unknown(map(str, sizes)),
        entry.max_tokens or UNKNOWN,
        languages(entry.languages),
        (entry.licence or UNKNOWN) + (" (gated)" if entry.gated else ""),
        entry.megabytes or UNKNOWN,
        _yes(is_pulled(entry, models_dir)),
        _yes(entry.proven),
        entry.description,
    )


def languages(codes: tuple[str, ...]) -> str:
    """Name a few languages, or say how many there are; `mul` is ISO 639's word for many."""
    if codes == ("mul",):
        return "many"
    return _or_unknown(codes) if len(codes) <= LANGUAGES_SHOWN else f"{len(codes)} languages"


def _or_unknown(values: Iterable[str]) -> str:
    return ", ".join(values) or UNKNOWN


def _yes(value: bool) -> str:
    return "yes" if value else "no"
