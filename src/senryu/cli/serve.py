"""`senryu serve`: the composition root. Reads the settings, builds the stages, hands them to each other, serves."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from senryu import __version__, logs
from senryu.config import Settings, option

# NOTE: not "engine", "store" or "app" here: `senryu serve --help` would wait for them.


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option per setting; secrets stay out of argument lists, which other users can read."""
    for setting in reversed(fields(Settings)):
        if setting.name == "paths" or setting.metadata["secret"]:
            continue
        default = setting.default if setting.default is not None else "automatic"
        variables = ", ".join(setting.metadata["env"])
        several = isinstance(default, tuple)
        default = "none; repeatable" if several else default
        help_text = f"{setting.metadata['doc']}  [{variables}; default: {default}]"
        command = click.option(
            option(setting),
            setting.name,
            metavar="VALUE",
            help=help_text,
            multiple=several,
            callback=_none_if_not_given if several else None,
        )(command)
    return command


def _none_if_not_given(
    _: click.Context, __: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...] | None:
    return values or None


@click.command()
@_options
def serve(**argv: Any) -> None:
    """Serve embeddings over HTTP.

    The first run fetches the model, makes a resource EMBEDDING with its key, and prints a curl to paste.

    \b
      senryu serve
      senryu serve --port 9000 --precision f32
      SENRYU_KEY=$CI_KEY senryu serve --model ./my-model
    """
    began = time.perf_counter()
    settings = Settings.load(argv)
    logs.configure(settings.log_format, settings.log_level)
    run(settings, began)


def run(settings: Settings, began: float) -> None:
    """Build everything and serve until a signal comes."""
    from senryu import models, pull, server
    from senryu.cli.provision import refuse_names_of_others
    from senryu.cli.pull import shown_progress
    from senryu.engine import choose_precision

    precision = choose_precision(settings.precision)
    prompts = models.parse_prompts(settings.prompts)
    listening = server.bind(settings.host, settings.port, shared=settings.share_port)
    origin = settings.public_url or server.origin(listening)
    with shown_progress() as progress:
        hub = pull.HubSettings.from_environ(os.environ)
        specs = [pull.ensure(name, settings.paths.models, hub, progress) for name in settings.models]
    specs[0] = models.with_prompts(specs[0], prompts)
    refuse_names_of_others(settings.served_names, specs[0].id)
    with ThreadPoolExecutor(1) as loader:
        # The first engine compiles on its own thread while this one imports and opens the rest.
        engine: Future[Any] = loader.submit(_load_engine, specs[0], precision, settings)
        from senryu.admission import Admission
        from senryu.app import App, home_context
        from senryu.cli.provision import provision
        from senryu.pipeline import Pipeline
        from senryu.store import Store
        from senryu.usage import Ledger

        store = Store.open(settings.database)
        shelf = _shelf(specs, engine, precision, settings)
    # NOTE: only now: EMBEDDING must not move to a model that cannot be served.
    provision(store, settings, [spec.id for spec in specs], origin)
    admission = Admission(
        store,
        shelf.names,
        {specs[0].id: settings.served_names},
        ledger=Ledger(store.add_usage),
        look_for=shelf.look_for,
        away_seconds=settings.database_away_seconds,
    )
    command = own_command(os.environ)
    app = App(Pipeline(shelf, admission), settings, origin=origin, command=command)

    def ready() -> None:
        click.echo(banner(home_context(shelf.first, origin, command), time.perf_counter() - began))

    with store:
        serving = server.Server(app, drain_seconds=settings.drain_seconds, on_ready=ready)
        serving.run(sockets=[listening])
        if not serving.started:
            raise SystemExit(3)


def _shelf(specs: list[Any], first: Future[Any], precision: Any, settings: Settings) -> Any:
    """Build what serves the models; the engine of the first is being loaded."""
    from senryu import engine, models
    from senryu.batcher import Batcher
    from senryu.engine.machine import usable_memory, usable_threads
    from senryu.shelf import MIB, Model, Shelf, fingerprint
    from senryu.tokenizer import Tokenizer

    streams = settings.threads or usable_threads()
    batcher = Batcher(streams, settings.queue_tokens, settings.request_seconds)

    def load(spec: Any) -> Model:
        tokenizer = Tokenizer(spec)
        loaded = first.result() if spec is specs[0] else _load_engine(spec, precision, settings)
        return Model(spec, tokenizer, loaded, batcher.open(loaded), fingerprint(spec, loaded))

    return Shelf(
        batcher,
        specs,
        load,
        lambda model_id: models.find_pulled(model_id, settings.paths.models) if settings.on_demand else None,
        needs=lambda spec: engine.memory_bytes(spec, precision, streams, settings.engine),
        memory_bytes=settings.memory_mib * MIB if settings.memory_mib else usable_memory() * 4 // 5,
    )


def _load_engine(spec: Any, precision: Any, settings: Settings) -> Any:
    from senryu import engine
    from senryu.engine.machine import usable_threads

    threads = settings.threads or usable_threads()
    return engine.load(spec, precision=precision, threads=threads, engine=settings.engine)


def own_command(environ: Any) -> str:
    """Return how to call this very command from any shell: its absolute path, with SENRYU_HOME if that is set."""
    path = Path(sys.argv[0]).absolute()
    command = shlex.quote(str(path)) if path.name == "senryu" else f"{shlex.quote(sys.executable)} -m senryu"
    home = environ.get("SENRYU_HOME")
    return f"env SENRYU_HOME={shlex.quote(str(Path(home).absolute()))} {command}" if home else command


def banner(home: Any, seconds: float) -> str:
    """Say what runs, for people, with a curl to paste."""
    from senryu.cli.catalog import languages as shown

    languages = "English" if list(home.languages) == ["en"] else shown(tuple(home.languages))
    return f"""
senryu {__version__}

  model      {home.model_id}: {languages}, {home.max_tokens} tokens, {home.dimensions} dimensions, {home.precision}
             {home.model_description}
             another one: senryu serve --model NAME-OR-FOLDER   (senryu models list --available)
  listening  {home.url}   (documentation: {home.url}/docs)
  ready      after {seconds:.1f} s; Ctrl-C stops it

Paste this into another terminal:

{home.curl}
"""
