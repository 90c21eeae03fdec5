"""`senryu models`: what is provisioned, what could be, and a running server asked about one of them.

It speaks to the server as any client would, with the key that the config vars hold; it loads no model.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

import click

from senryu import __version__, config_vars
from senryu.cli.output import as_json, as_pairs, hint, print_table
from senryu.config import Paths
from senryu.errors import SetupError
from senryu.models import catalog, is_pulled
from senryu.store import Attachment, Store
from senryu.types import Resource

TIMEOUT_SECONDS = 60
_Numbers: TypeAlias = type[float] | type[str]
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
        _list_available(paths, json_)
    else:
        _list_provisioned(paths, json_)


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
    server = _server(paths, _resolve(paths, resource, app))
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
        "created_at": resource.created_at.isoformat(),
        "attachments": [
            {"app": item.app, "alias": item.alias} for item in attachments if item.resource_id == resource.id
        ],
    }


def _rows(resource: Resource, attachments: tuple[Attachment, ...]) -> list[tuple[str, ...]]:
    created = resource.created_at.strftime("%Y-%m-%d %H:%M UTC")
    names = [(item.alias, item.app) for item in attachments if item.resource_id == resource.id]
    return [(resource.name, resource.model_id, alias, app, created) for alias, app in names or [("", "")]]


def _list_available(paths: Paths, json_: bool) -> None:
    entries = [
        {
            "id": entry.id,
            "hf_id": entry.hf_id,
            "dimensions": entry.dimensions,
            "max_tokens": entry.max_tokens,
            "languages": entry.languages,
            "licence": entry.licence,
            "size_bytes": entry.size_bytes,
            "description": entry.description,
            "pulled": is_pulled(entry, paths.models),
        }
        for entry in catalog()
    ]
    if json_:
        click.echo(as_json(entries))
    else:
        columns = ("Model", "Dimensions", "Tokens", "Languages", "Licence", "MB", "Pulled", "Description")
        print_table(columns, [_available_row(entry) for entry in entries])


def _available_row(entry: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        entry["id"],
        entry["dimensions"],
        entry["max_tokens"],
        ", ".join(entry["languages"]),
        entry["licence"],
        round(entry["size_bytes"] / 1e6),
        "yes" if entry["pulled"] else "no",
        entry["description"],
    )


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
        answer = _server(paths, target).ask(f"/models/{resource.id}")
    except _UnreachableError as error:
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
        "dimensions": "Dimensions",
        "max_tokens": "Max Tokens",
    }
    return {label: answer[field] for field, label in labels.items() if answer.get(field) is not None}


def _options(optfile: Path | None, opts: str | None) -> dict[str, Any]:
    """Where both name a field, the command line wins."""
    merged: dict[str, Any] = {}
    if optfile is not None:
        try:
            merged |= _object(str(optfile), optfile.read_bytes())
        except OSError as error:
            raise SetupError(f"{optfile} cannot be read: {error.strerror}.") from None
    return merged | (_object("--opts", opts) if opts is not None else {})


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise SetupError(f"standard input is not UTF-8: {error}.") from None


def _object(where: str, text: str | bytes, parse_float: _Numbers = float) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_float=parse_float)
    except ValueError as error:
        raise SetupError(f"{where} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise SetupError(f'{where} is not a JSON object, such as \'{{"input_type": "search_query"}}\'.')
    return value


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


class _UnreachableError(SetupError):
    """Raise when there is no way to ask the server."""


@dataclass(frozen=True, slots=True, repr=False)
class _Server:
    """A running server as one attached resource's client sees it."""

    url: str
    key: str
    model_id: str

    def ask(
        self, path: str, body: Mapping[str, Any] | None = None, parse_float: _Numbers = float
    ) -> dict[str, Any]:
        """GET a path, or POST a JSON body to it; raises SetupError with the server's own words."""
        try:
            with _opener(self.url).open(self._request(path, body), timeout=TIMEOUT_SECONDS) as answer:
                return _object(f"the answer of {self.url}", answer.read(), parse_float)
        except HTTPError as error:
            with error:
                raise SetupError(f"{self.url} answered {error.code}: {_server_message(error)}") from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _UnreachableError(
                f"the server at {self.url} does not answer ({getattr(reason, 'strerror', None) or reason}); "
                "start it with `senryu serve`."
            ) from None

    def _request(self, path: str, body: Mapping[str, Any] | None) -> Request:
        headers = {
            "Authorization": f"Bearer {self.key}",
            "Content-Type": "application/json",
            "User-Agent": f"senryu/{__version__}",
        }
        data = None if body is None else json.dumps(body).encode()
        return Request(self.url + path, data, headers)  # noqa: S310 - _server lets only http through


def _server(paths: Paths, target: _Target) -> _Server:
    resource, attachment = target
    if attachment is None:
        raise _UnreachableError(
            f"resource {resource.name!r} is attached to no app, so there is no key for it."
        )
    names = config_vars.names(attachment.alias)
    values = config_vars.read(paths.config_vars, attachment.app)
    if missing := [name for name in (names.url, names.key) if name not in values]:
        raise _UnreachableError(
            f"app {attachment.app!r} has no config var {missing[0]!r}; `senryu serve` writes it at its start."
        )
    url = values[names.url].rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise SetupError(
            f"config var {names.url} is {url!r}; it takes an origin, such as http://127.0.0.1:8080"
        )
    return _Server(url, values[names.key], values.get(names.model_id, resource.model_id))


class _SameOrigin(HTTPRedirectHandler):
    """Follows no redirect to another origin: the request carries a key."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(url: str) -> OpenerDirector:
    proxies = ProxyHandler({}) if _is_loopback(urlsplit(url).hostname or "") else ProxyHandler()
    return build_opener(proxies, _SameOrigin)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _server_message(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return error.reason
