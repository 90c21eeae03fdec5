"""`senryu doctor`: what is wrong with this installation, in words, with the mend.

Knows the order of the checks and how findings are laid out; what is looked at is each check's own business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module

import click

from senryu.cli.doctor.finding import Check, Finding, Installation, State, ok, wrong
from senryu.cli.output import as_json, print_table
from senryu.cli.targets import json_option
from senryu.config import Paths, Settings
from senryu.errors import SettingError, SetupError

# NOTE: files before database: to open the database mends the modes of its files.
CHECKS = (
    "machine:packages",
    "places:folders",
    "places:files",
    "places:disk",
    "machine:processor",
    "machine:engine",
    "machine:memory",
    "serving:models",
    "accounts:database",
    "accounts:given_key",
    "accounts:variables",
    "machine:clock",
    "serving:port",
    "serving:servers",
    "serving:hugging_face",
)


@click.command()
@click.option("--network", is_flag=True, help="Ask other machines too: Hugging Face, and servers elsewhere.")
@json_option
def doctor(network: bool, json_: bool) -> None:
    """Check this installation, and say what to do about what is wrong; end with 1 if anything is.

    Nothing is changed, but that files with keys are taken from other users' eyes.

    \b
    Example:
      senryu doctor
      senryu doctor --network --json
    """
    findings = list(examine(network))
    bad = [finding for finding in findings if finding.state is State.WRONG]
    if json_:
        checks = [
            {"check": each.check, "state": each.state.value, "found": each.found, "mend": each.mend or None}
            for each in findings
        ]
        click.echo(as_json({"ok": not bad, "checks": checks}))
    else:
        rows = [(each.state, each.check, _words(each)) for each in findings]
        print_table(
            ("State", "Check", "Found"), rows, styles={State.WRONG: "bold red", State.WARNING: "yellow"}
        )
    if bad:
        raise SetupError(f"{len(bad)} of {len(findings)} findings {'is' if len(bad) == 1 else 'are'} wrong.")


def examine(network: bool) -> Iterator[Finding]:
    """Run every check; where the settings cannot be read, say so, and leave out the others."""
    try:
        settings = Settings.load()
    except SettingError as error:
        yield wrong("settings", f"{error} Until then nothing else can be checked.")
        return
    yield _settings(settings.paths)
    installation = Installation(settings, network)
    for name in CHECKS:
        yield from _load(name)(installation)


def _settings(paths: Paths) -> Finding:
    file = str(paths.settings_file) if paths.settings_file.exists() else f"no {paths.settings_file}"
    variables = sorted(name for name in os.environ if name.startswith("SENRYU_") and os.environ[name])
    return ok("settings", f"{file}; environment: {', '.join(variables) or 'nothing'}")


def _load(name: str) -> Check:
    module, _, function = name.partition(":")
    check: Check = getattr(import_module(f"senryu.cli.doctor.{module}"), function)
    return check


def _words(finding: Finding) -> str:
    return f"{finding.found}. To mend it: {finding.mend}" if finding.mend else finding.found
