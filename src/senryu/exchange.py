"""One HTTP exchange over ASGI: what came, what is noted about it, what goes back. Knows HTTP, no route and no field.

Bare ASGI, because this is the hot path: headers are looked up by name once, and an answer is two messages.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from senryu.body import Body
from senryu.types import Timings

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


class Exchange:
    """One request, and what is noted about it for its headers and its log line."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.client: str | None = scope["client"][0] if scope.get("client") else None
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self.receive = receive
        self.body = Body(self._headers, receive)
        self.timings = Timings()
        self.route = "-"
        self.wanted = ""  # what a path ends in, where the route leaves it open
        self.note: dict[str, Any] | None = None
        given = self.header("x-request-id") or ""
        # NOTE: an id has to be unique, not unguessable, so this needs no system call.
        self.id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"

    def header(self, name: str) -> str | None:
        """Return a header by its name in lower case."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")


@dataclass(slots=True)
class Reply:
    """An answer. `headers` takes names in lower case."""

    content: bytes
    status: int = 200
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    async def send(self, send: Send) -> None:
        """Write it."""
        headers = [
            (b"content-length", str(len(self.content)).encode()),
            (b"content-type", self.media_type.encode()),
            *((name.encode(), value.encode("latin-1")) for name, value in self.headers.items()),
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.content})
