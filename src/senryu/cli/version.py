"""`senryu version`: what is installed, by the package metadata and by name. Imports none of what it names."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

import click

from senryu import __version__
from senryu.cli.output import as_json

SHOWN = ("openvino", "tokenizers")  # the packages whose version can change a vector
NOT_INSTALLED = "not installed"
KERNELS = Path(__file__).parents[1] / "engine" / "kernels" / "senryu_kernels.so"


@click.command()
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def version(json_: bool = False) -> None:
    """Show the versions of Senryu and what it runs on.

    \b
    Example:
      senryu version --json
    """
    found = versions()
    lines = "\n".join(f"{name} {number}" for name, number in found.items())
    click.echo(as_json(found) if json_ else lines)


def versions() -> dict[str, str]:
    """Return versions by package, and whether our own kernels are built."""
    ours = {"senryu": __version__, "kernels": "built" if KERNELS.exists() else "not built"}
    return ours | {"python": platform.python_version()} | {name: _installed(name) for name in SHOWN}


def _installed(name: str) -> str:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return NOT_INSTALLED
