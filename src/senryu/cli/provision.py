"""Resources with their keys and config vars: the first one, which `senryu serve` sets up so that a first call just
works, and those that a person creates.

EMBEDDING follows the model that is served, and the config vars follow EMBEDDING. Every step can be done again:
the next start makes good one that was cut short. It knows nothing of SQL or of HTTP.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from senryu import config_vars
from senryu.config import Settings
from senryu.errors import SettingError, StoreError
from senryu.models import find
from senryu.store import Store, digest
from senryu.types import Key, Resource

logger = logging.getLogger(__name__)

APP = config_vars.DEFAULT_APP
ALIAS = "EMBEDDING"
NAMES = config_vars.names(ALIAS)


def provision(store: Store, settings: Settings, model_id: str, origin: str) -> None:
    """See that EMBEDDING is a resource of the model with a good key, and that every URL is where we listen.

    Starts that share a home take turns. Raises SettingError, before any change, for a SENRYU_KEY that was
    revoked, and StoreError where the home cannot be written.
    """
    with _alone(settings.paths.data / "provision.lock"):
        held = config_vars.read(settings.paths.config_vars, APP).get(NAMES.key)
        _refuse_revoked(store, settings.key)
        resource = _resource(store, model_id)
        variables = _urls(store, origin)
        if resource is not None:
            secret = _secret(store, resource, settings.key, held)
            variables.setdefault(APP, {}).update({NAMES.key: secret, NAMES.model_id: model_id})
        elif settings.key is not None:
            logger.warning("SENRYU_KEY is not used: nothing is attached as %s", ALIAS)
        for app, values in variables.items():
            config_vars.update(settings.paths.config_vars, app, values)


def create(
    store: Store,
    settings: Settings,
    model_id: str,
    *,
    app: str,
    alias: str,
    name: str | None,
    served: Iterable[str],
) -> Resource:
    """Provision a model once more, attached to an app with a key of its own, and write its config vars.

    Raises StoreError where a name is taken or cannot be one, SettingError for the name of another model.
    """
    names = config_vars.names(alias)
    with _alone(settings.paths.data / "provision.lock"):
        refuse_names_of_others((*served, *([name] if name else [])), model_id)
        _refuse_held(store, app, alias)
        config_vars.update(settings.paths.config_vars, APP, {})  # NOTE: what cannot be written stops it here
        resource = store.create_resource(model_id, name=name, served=served)
        store.attach(resource.id, app=app, alias=alias)
        url = _known_url(store, settings)
        secret = store.create_key(resource.id)[1]
        values = {names.url: url, names.key: secret, names.model_id: model_id}
        config_vars.update(settings.paths.config_vars, app, values)
    return resource


def refuse_names_of_others(names: Iterable[str], model_id: str) -> None:
    """Raise SettingError for a name that the catalog has for another model: no model answers for another."""
    for name in names:
        entry = find(name)
        if entry is not None and entry.id != model_id:
            raise SettingError(f"the name {name!r} is that of the model {entry.id}; choose another one.")


def _refuse_held(store: Store, app: str, alias: str) -> None:
    config_vars.check_app(app)
    config_vars.check_alias(alias)
    if any(item.alias == alias for item in store.attachments(app)):
        raise StoreError(f"app {app!r} has a resource {alias} already; choose another alias with --as.")


def _known_url(store: Store, settings: Settings) -> str:
    """Return where the server last was, as the config vars of any resource say, else where it would listen."""
    for item in store.attachments():
        values = config_vars.read(settings.paths.config_vars, item.app)
        if url := values.get(config_vars.names(item.alias).url):
            return url
    return settings.public_url or f"http://{settings.host}:{settings.port}"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"lock {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_revoked(store: Store, given: str | None) -> None:
    known = _known(store, given)
    if known is not None and known.revoked_at is not None:
        raise SettingError(
            f"SENRYU_KEY: that key was revoked on {known.revoked_at:%Y-%m-%d}; choose another one."
        )


def _resource(store: Store, model_id: str) -> Resource | None:
    before = [item.resource_id for item in store.attachments(APP) if item.alias == ALIAS]
    resource = store.attach_model(model_id, app=APP, alias=ALIAS)
    if resource is not None and [resource.id] != before:
        logger.info("%s is now the resource %s (%s)", ALIAS, resource.name, model_id)
    return resource


def _urls(store: Store, origin: str) -> dict[str, dict[str, str]]:
    variables: dict[str, dict[str, str]] = {}
    for attachment in store.attachments():
        variables.setdefault(attachment.app, {})[config_vars.names(attachment.alias).url] = origin
    return variables


def _secret(store: Store, resource: Resource, given: str | None, held: str | None) -> str:
    """Choose the key that the config vars shall hold: SENRYU_KEY, or the one they hold if it is good, or a new one.

    What SENRYU_KEY replaces is revoked: that is how a key that leaked is rotated.
    """
    if given is not None:
        _register(store, resource, given)
        if held != given:
            _retire(store, held)
        return given
    if held is not None and _is_good(_known(store, held), resource):
        return held
    return store.create_key(resource.id)[1]


def _register(store: Store, resource: Resource, given: str) -> None:
    known = _known(store, given)
    if known is None:
        store.create_key(resource.id, secret=given)
    elif not _is_good(known, resource):
        store.move_key(known.id, resource.id)
        logger.info(
            "SENRYU_KEY (key %s) is now for %s (%s); it was for resource %s",
            known.id, resource.name, resource.model_id, known.resource_id,
        )  # fmt: skip


def _retire(store: Store, held: str | None) -> None:
    # NOTE: a key for every model was not made here, so it is not ours to revoke.
    known = _known(store, held)
    if known is not None and known.revoked_at is None and known.resource_id is not None:
        store.revoke_key(known.id)
        logger.info("key %s is revoked: %s held it, and SENRYU_KEY is another one now", known.id, NAMES.key)


def _known(store: Store, secret: str | None) -> Key | None:
    wanted = None if secret is None else digest(secret)
    return next((key for key in store.keys() if key.digest == wanted), None)


def _is_good(key: Key | None, resource: Resource) -> bool:
    return key is not None and key.revoked_at is None and key.resource_id in (None, resource.id)
