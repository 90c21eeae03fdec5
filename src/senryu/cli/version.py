"""`senryu version`: what is installed, as the package metadata has it. Imports none of what it names."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

import click

from senryu import __version__
from senryu.cli.output import as_json

SHOWN = ("openvino", "tokenizers")  # the packages whose version can change a vector


@click.command()
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def version(json_: bool = False) -> None:
    """Show the versions of Senryu and what it runs on.

    \b
    Example:
      senryu version --json
    """
    versions = {"senryu": __version__, "python": platform.python_version()}
    versions |= {name: _installed(name) for name in SHOWN}
    lines = "\n".join(f"{name} {number}" for name, number in versions.items())
    click.echo(as_json(versions) if json_ else lines)


def _installed(name: str) -> str:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return "not installed"
