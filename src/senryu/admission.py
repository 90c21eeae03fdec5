"""Who may have what computed: key → Ticket, its limits, and its settlement when the request is over.

Sees the store only through `Accounts` and holds what it knows in memory, so that no request waits for a database.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from senryu.errors import (
    AuthenticationError,
    AuthorizationError,
    InputTooLong,
    ModelNotFound,
    StoreError,
    TooManyInputs,
    TooManyTokens,
)
from senryu.types import EmbedRequest, Key, Limits, Resource, Ticket

logger = logging.getLogger(__name__)

# A key that is revoked or made elsewhere counts here after at most this long.
RELOAD_SECONDS = 0.5

RESOURCE_LIMITS = Limits()

_BEARER = re.compile(r"bearer +([!-~]+) *", re.IGNORECASE)


class Accounts(Protocol):
    """What admission needs of the store."""

    def revision(self) -> int: ...
    def keys(self) -> Sequence[Key]: ...
    def resources(self) -> Sequence[Resource]: ...


class Admission:
    """Lets requests in. `names` tells which names the model with an id answers to; none: it is not served.

    `served_names` are names besides, for whatever is served.
    """

    def __init__(
        self,
        accounts: Accounts,
        names: Callable[[str], tuple[str, ...]],
        served_names: tuple[str, ...] = (),
    ) -> None:
        self._accounts = accounts
        self._names = names
        self._served_names = served_names
        self._revision = -1
        self._keys: Mapping[bytes, Key] = {}
        self._resources: Mapping[str, Resource] = {}
        self._answers_to: Mapping[str, frozenset[str]] = {}  # by resource id
        self.reload()

    def reload(self) -> None:
        """Read keys and resources again if anything has changed."""
        revision = self._accounts.revision()
        if revision != self._revision:
            # NOTE: keys first: then no key is known whose resource is not.
            keys = {key.digest: key for key in self._accounts.keys()}
            resources = {resource.id: self._as_served(resource) for resource in self._accounts.resources()}
            self._answers_to = {resource.id: self._all_names(resource) for resource in resources.values()}
            self._resources = resources
            self._keys = keys
            self._revision = revision

    async def watch(self) -> None:
        """Keep up with the store until cancelled; while it is away, what is known goes on counting."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                await asyncio.to_thread(self.reload)
            except StoreError as error:
                logger.warning("keys could not be reloaded: %s", error)

    def authenticate(self, authorization: str | None) -> Key:
        """Return the key of an Authorization header. Raises AuthenticationError, and says nothing of the key."""
        if not authorization:
            raise AuthenticationError("No API key was given. Send the header 'Authorization: Bearer <key>'.")
        bearer = _BEARER.fullmatch(authorization)
        if bearer is None:
            raise AuthenticationError("The Authorization header is malformed. It must read 'Bearer <key>'.")
        # NOTE: what is looked up is a digest, so timing tells nothing about how much of a key was right.
        key = self._keys.get(hashlib.sha256(bearer[1].encode()).digest())
        if key is None or key.revoked_at is not None:
            raise AuthenticationError("The API key is unknown or revoked.")
        return key

    def admit(self, key: Key, request: EmbedRequest) -> Ticket:
        """Return the ticket of a request that this key may make.

        Raises AuthorizationError, ModelNotFound, TooManyInputs, InputTooLong.
        """
        resource = self.resource_for(key, request.model)
        limits = request.limits or RESOURCE_LIMITS
        most = limits.max_inputs or resource.max_inputs
        if len(request.inputs) > most:
            raise TooManyInputs(len(request.inputs), most)
        # NOTE: token ids have no characters; they are cut to what the model reads.
        if request.limits is None and isinstance(request.inputs[0], str):
            for index, text in enumerate(request.inputs):
                if len(text) > resource.max_chars:
                    raise InputTooLong(index, len(text), resource.max_chars)
        return Ticket(key, resource, len(request.inputs), max_tokens=limits.max_tokens)

    def resource_for(self, key: Key, model: str) -> Resource:
        """Return the resource that a key may use under a model's name.

        Raises AuthorizationError, ModelNotFound.
        """
        if key.resource_id is None:
            return self._named(model)
        resource = self._resources[key.resource_id]
        if model not in self._answers_to[resource.id]:
            raise AuthorizationError(
                f"This key is for the model '{resource.model_id}', not for {_shown(model)}."
            )
        if not self._names(resource.model_id):
            raise ModelNotFound(f"The model '{resource.model_id}' is not being served now. {self._served()}")
        return resource

    def _named(self, model: str) -> Resource:
        """Find what a key for every model means: a resource of that very name before one of that model."""
        served = [r for r in self._resources.values() if self._names(r.model_id)]
        for own in (True, False):
            for resource in served:
                if model in (
                    {resource.name, *resource.served_names} if own else self._answers_to[resource.id]
                ):
                    return resource
        raise ModelNotFound(f"There is no model {_shown(model)} here. {self._served()}")

    def _as_served(self, resource: Resource) -> Resource:
        if not self._served_names or not self._names(resource.model_id):
            return resource
        names = dict.fromkeys((*self._served_names, *resource.served_names))
        return replace(resource, served_names=tuple(names))

    def _all_names(self, resource: Resource) -> frozenset[str]:
        names = (resource.name, *resource.served_names, *self._names(resource.model_id))
        return frozenset((resource.model_id, *names))

    def resources(self, key: Key) -> tuple[Resource, ...]:
        """Return the resources that are served and that a key may use."""
        return tuple(
            resource
            for resource in self._resources.values()
            if key.resource_id in (None, resource.id) and self._names(resource.model_id)
        )

    def max_body_bytes(self) -> int:
        """Return what the longest legal body of any resource can need, every character escaped."""
        most = max((r.max_inputs * r.max_chars for r in self._resources.values()), default=0)
        return most * 12 + 64 * 1024

    def _served(self) -> str:
        names = sorted({r.model_id for r in self._resources.values() if self._names(r.model_id)})
        return f"Served: {', '.join(names)}." if names else "No model is served."

    def charge(self, ticket: Ticket, prompt_tokens: int) -> None:
        """Charge a request with the tokens that the model will read for it. Raises TooManyTokens."""
        if ticket.max_tokens is not None and prompt_tokens > ticket.max_tokens:
            raise TooManyTokens(prompt_tokens, ticket.max_tokens)
        ticket.prompt_tokens = prompt_tokens

    def settle(self, ticket: Ticket, *, answered: bool) -> None:
        """Close a ticket; a request that was not answered costs nothing."""
        if not answered:
            ticket.prompt_tokens = 0


def _shown(model: str) -> str:
    return ascii(model if len(model) <= 100 else model[:100] + "…")
