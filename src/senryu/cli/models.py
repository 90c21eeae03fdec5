"""`senryu models`: what is provisioned, what could be, one more of it, and a running server asked about one of them.

It speaks to the server as any client would, with the key that the config vars hold; it loads no model.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from senryu import config_vars
from senryu.cli import provision
from senryu.cli.catalog import list_available
from senryu.cli.client import UnreachableError, parse_object, server_of
from senryu.cli.output import as_json, as_pairs, hint, print_table
from senryu.config import Paths, Settings
from senryu.errors import SetupError
from senryu.models import find, resolve
from senryu.store import Attachment, Store
from senryu.types import Resource

DEFAULT_ALIAS = "INFERENCE"  # the hosted service's
NOTHING_YET = "no model is provisioned yet; `senryu serve` provisions the first one."

_app_option = click.option(
    "-a", "--app", default=config_vars.DEFAULT_APP, show_default=True, help="App that the alias belongs to."
)


@click.group()
def models() -> None:
    """List, inspect and call the provisioned models.

    \b
    Example:
      senryu models list
      senryu models call EMBEDDING -p "hello world"
    """


@models.command("list")
@click.option("--available", is_flag=True, help="List the models that can be served instead.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def list_models(available: bool, json_: bool) -> None:
    """List the provisioned models, or those that can be.

    \b
    Example:
      senryu models list --available
    """
    paths = Paths.from_environ(os.environ)
    if available:
        list_available(paths.models, json_)
    else:
        _list_provisioned(paths, json_)


@models.command("create")
@click.argument("model")
@click.option("--as", "alias", default=DEFAULT_ALIAS, show_default=True, help="Alias to attach it as.")
@_app_option
@click.option("--name", help="Name of the resource; by default one is made up.")
@click.option("--served-name", "served", multiple=True, help="Another name that it answers to; repeatable.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def create(model: str, alias: str, app: str, name: str | None, served: tuple[str, ...], json_: bool) -> None:
    """Provision MODEL (a name of the catalog, or a folder) once more, with a key and config vars of its own.

    \b
    Example:
      senryu models create all-minilm-l6-v2 --as EMBEDDING --app shop
      senryu models create all-minilm-l6-v2 --served-name cohere-embed-multilingual
    """
    settings = Settings.load({"served_names": served or None})
    entry = find(model)
    model_id = entry.id if entry else resolve(model, settings.paths.models).id
    with Store.open(settings.paths.database) as store:
        made = provision.create(store, settings, model_id, app=app, alias=alias, name=name, served=served)
        attachments = store.attachments()
    if json_:
        click.echo(as_json(_listed(made, attachments)))
        return
    answers_to = ", ".join((made.model_id, made.name, *made.served_names))
    facts = {"Model Resource ID": made.id, "Model Alias": alias, "App": app, "Answers To": answers_to}
    click.echo(as_pairs(made.name, facts))
    hint(f"its key: senryu config {config_vars.names(alias).key} --app {app}")


@models.command("info")
@click.argument("resource", required=False)
@_app_option
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def info(resource: str | None, app: str, json_: bool) -> None:
    """Show the state of RESOURCE (an alias, a resource id or a name), or of each one of the app.

    \b
    Example:
      senryu models info EMBEDDING
    """
    paths = Paths.from_environ(os.environ)
    targets = [_resolve(paths, resource, app)] if resource else _attached(paths, app)
    described = [_describe(paths, target) for target in targets]
    if json_:
        click.echo(as_json(described[0] if resource else described))
    else:
        click.echo("\n\n".join(as_pairs(item["model_id"], _labelled(item)) for item in described))


@models.command("call")
@click.argument("resource")
@_app_option
@click.option("-p", "--prompt", "--input", "text", help="Text to embed; - reads standard input.")
@click.option("--opts", help="More fields of the request, as a JSON object.")
@click.option("--optfile", type=click.Path(path_type=Path), help="More fields, from a JSON file.")
@click.option("-j", "--json", "json_", is_flag=True, help="Print the whole answer as JSON.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write the answer to.")
def call(
    resource: str,
    app: str,
    text: str | None,
    opts: str | None,
    optfile: Path | None,
    json_: bool,
    output: Path | None,
) -> None:
    """Embed a text with RESOURCE (an alias, a resource id or a name) and print the vector.

    \b
    Example:
      senryu models call EMBEDDING -p "hello world"
      senryu models call EMBEDDING --input - --opts '{"embedding_type": "int8"}' < letter.txt
    """
    body = _options(optfile, opts)
    if text is not None:
        body["input"] = _standard_input() if text == "-" else text
    if "input" not in body:
        raise click.UsageError("give the text with --prompt, or `input` in --opts or --optfile.")
    paths = Paths.from_environ(os.environ)
    server = server_of(paths.config_vars, *_resolve(paths, resource, app))
    # NOTE: a vector's numbers stay the text that the server wrote, so that no digit is made up on the way
    answer = server.ask(
        "/v1/embeddings", {**body, "model": server.model_id}, parse_float=float if json_ else str
    )
    _deliver(as_json(answer) if json_ else _vectors(answer), output)


class _Target(NamedTuple):
    resource: Resource
    attachment: Attachment | None


def _provisioned(paths: Paths) -> tuple[tuple[Resource, ...], tuple[Attachment, ...]]:
    if not paths.database.exists():  # NOTE: to look must not create the database
        return (), ()
    with Store.open(paths.database) as store:
        return store.resources(), store.attachments()


def _resolve(paths: Paths, wanted: str, app: str) -> _Target:
    resources, attachments = _provisioned(paths)
    aliases = {
        attachment.alias: attachment.resource_id for attachment in attachments if attachment.app == app
    }
    wanted_id = aliases.get(wanted, wanted)
    for resource in resources:
        if wanted_id in (resource.id, resource.name):
            return _Target(resource, _attachment(resource, attachments, app, wanted))
    there = ", ".join([*aliases, *(resource.name for resource in resources)])
    known = f"there are: {there}." if there else NOTHING_YET
    raise SetupError(f"there is no model resource {wanted!r} in app {app!r}; {known}")


def _attachment(
    resource: Resource, attachments: tuple[Attachment, ...], app: str, alias: str
) -> Attachment | None:
    candidates = [attachment for attachment in attachments if attachment.resource_id == resource.id]
    candidates.sort(key=lambda attachment: (attachment.app != app, attachment.alias != alias))
    return candidates[0] if candidates else None


def _attached(paths: Paths, app: str) -> list[_Target]:
    resources, attachments = _provisioned(paths)
    by_id = {resource.id: resource for resource in resources}
    found = [_Target(by_id[item.resource_id], item) for item in attachments if item.app == app]
    if not found:
        apps = ", ".join(sorted({item.app for item in attachments}))
        raise SetupError(f"app {app!r} has no model; apps that have: {apps}." if apps else NOTHING_YET)
    return found


def _list_provisioned(paths: Paths, json_: bool) -> None:
    resources, attachments = _provisioned(paths)
    if json_:
        click.echo(as_json([_listed(resource, attachments) for resource in resources]))
    elif not resources:
        hint(NOTHING_YET)
    else:
        rows = [row for resource in resources for row in _rows(resource, attachments)]
        print_table(("Resource", "Model", "Alias", "App", "Created"), rows)


def _listed(resource: Resource, attachments: tuple[Attachment, ...]) -> dict[str, Any]:
    return {
        "id": resource.id,
        "name": resource.name,
        "model_id": resource.model_id,
        "max_inputs": resource.max_inputs,
        "max_chars": resource.max_chars,
        "served_names": list(resource.served_names),
        "created_at": resource.created_at.isoformat(),
        "attachments": [
            {"app": item.app, "alias": item.alias} for item in attachments if item.resource_id == resource.id
        ],
    }


def _rows(resource: Resource, attachments: tuple[Attachment, ...]) -> list[tuple[str, ...]]:
    created = resource.created_at.strftime("%Y-%m-%d %H:%M UTC")
    names = [(item.alias, item.app) for item in attachments if item.resource_id == resource.id]
    return [(resource.name, resource.model_id, alias, app, created) for alias, app in names or [("", "")]]


def _describe(paths: Paths, target: _Target) -> dict[str, Any]:
    resource, attachment = target
    known: dict[str, Any] = {
        "model_id": resource.model_id,
        "model_alias": attachment and attachment.alias,
        "model_resource_id": resource.id,
        "name": resource.name,
        "created": resource.created_at.isoformat(),
    }
    try:
        answer = server_of(paths.config_vars, *target).ask(f"/models/{resource.id}")
    except UnreachableError as error:
        hint(f"{error} What follows is what the database knows.")
        return {**known, "ready": "No"}
    return {**known, **answer}


def _labelled(answer: Mapping[str, Any]) -> dict[str, object]:
    """The first five are the labels of the hosted service's own command."""
    labels = {
        "model_id": "Base Model ID",
        "model_alias": "Model Alias",
        "model_resource_id": "Model Resource ID",
        "ready": "Ready",
        "avg_performance": "Avg Performance",
        "fingerprint": "Fingerprint",
        "precision": "Precision",
        "precision_loss": "Precision Loss",
        "dimensions": "Dimensions",
        "max_tokens": "Max Tokens",
    }
    if loss := answer.get("precision_loss"):
        cosines = "cosine to f32 {cosine_mean:.4f} on average, {cosine_p1:.4f} at the 1st percentile"
        answer = {**answer, "precision_loss": cosines.format_map(loss)}
    return {label: answer[field] for field, label in labels.items() if answer.get(field) is not None}


def _options(optfile: Path | None, opts: str | None) -> dict[str, Any]:
    """Where both name a field, the command line wins."""
    merged: dict[str, Any] = {}
    if optfile is not None:
        try:
            merged |= parse_object(str(optfile), optfile.read_bytes())
        except OSError as error:
            raise SetupError(f"{optfile} cannot be read: {error.strerror}.") from None
    return merged | (parse_object("--opts", opts) if opts is not None else {})


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise SetupError(f"standard input is not UTF-8: {error}.") from None


def _vectors(answer: Mapping[str, Any]) -> str:
    embeddings = [item["embedding"] for item in answer["data"]]
    return "\n".join(item if isinstance(item, str) else ",".join(map(str, item)) for item in embeddings)


def _deliver(text: str, output: Path | None) -> None:
    if output is None:
        click.echo(text)
        return
    try:
        output.write_text(text + "\n", "utf-8")
    except OSError as error:
        raise SetupError(f"{output} cannot be written: {error.strerror}.") from None
