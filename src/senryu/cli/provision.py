"""The first resource, its key and its config vars: what `senryu serve` sets up so that a first call just works."""

from __future__ import annotations

import logging

from senryu import config_vars
from senryu.config import Settings
from senryu.store import Store, digest
from senryu.types import Resource

logger = logging.getLogger(__name__)

APP = "default"
ALIAS = "EMBEDDING"


def provision(store: Store, settings: Settings, model_id: str, origin: str) -> None:
    """See that a resource for the model exists with a key, and that every attachment's URL is where we listen."""
    resource = _first_resource(store, model_id)
    if resource is not None:
        _see_to_key(store, settings, resource)
    for attachment in store.attachments():
        config_vars.update(
            settings.paths.config_vars, attachment.app, {config_vars.names(attachment.alias).url: origin}
        )


def _first_resource(store: Store, model_id: str) -> Resource | None:
    """Return the resource attached as EMBEDDING, made or moved to this model if need be.

    None where somebody has detached it on purpose: resources of this model exist, and none is called so.
    """
    resources = {resource.id: resource for resource in store.resources()}
    attached = [a.resource_id for a in store.attachments(APP) if a.alias == ALIAS]
    if attached and resources[attached[0]].model_id == model_id:
        return resources[attached[0]]
    of_model = [resource for resource in resources.values() if resource.model_id == model_id]
    if of_model and not attached:
        return None
    resource = of_model[0] if of_model else store.create_resource(model_id)
    store.attach(resource.id, app=APP, alias=ALIAS)
    logger.info("%s is now the resource %s (%s)", ALIAS, resource.name, model_id)
    return resource


def _see_to_key(store: Store, settings: Settings, resource: Resource) -> None:
    """Keep the key that the config vars hold if it is good; else take SENRYU_KEY, or make one."""
    names = config_vars.names(ALIAS)
    known = config_vars.read(settings.paths.config_vars, APP).get(names.key)
    if settings.key is not None:
        _, secret = store.create_key(resource.id, secret=settings.key)
    elif known and _is_good(store, resource, known):
        secret = known
    else:
        _, secret = store.create_key(resource.id)
    config_vars.update(
        settings.paths.config_vars, APP, {names.key: secret, names.model_id: resource.model_id}
    )


def _is_good(store: Store, resource: Resource, secret: str) -> bool:
    wanted = digest(secret)
    return any(
        key.digest == wanted and key.revoked_at is None and key.resource_id == resource.id
        for key in store.keys()
    )
