"""One HTTP exchange over ASGI: what came, what is noted about it, what goes back. Knows HTTP, no route and no field.

Bare ASGI, because this is the hot path: headers are looked up by name once. Where the server has a Line for a request,
its body and its answer do without ASGI's messages, too.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from senryu.admission import Outcome
from senryu.body import Body
from senryu.types import Key, Ticket, Timings

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

# In the scope of a server that can tell how its connection fares: a Line.
LINE = "senryu.line"

_REQUEST_ID = re.compile(
    r"(?!.*inf-[0-9a-f]{8})[!-~]{1,128}", re.IGNORECASE
)  # NOTE: it is logged; no key may be


class Line(Protocol):
    """What a server knows of the client of one request."""

    def whole_body(self) -> bytes | None:
        """Return the body if it has arrived to its end and none of it was received yet."""

    async def answer(self, status: int, headers: Mapping[str, str], content: bytes) -> bool:
        """Write an answer, and tell whether the system took all of it before the client hung up."""

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """Have its hanging up told, at once if it has; None: no more."""


class Exchange:
    """One request, and what is noted about it for its headers and its log line."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.client: str | None = scope["client"][0] if scope.get("client") else None
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._line: Line | None = scope.get(LINE)
        self.query: bytes = scope.get("query_string", b"")
        self.receive = receive
        self.body = Body(self._headers, receive, self._line.whole_body if self._line else None)
        self.timings = Timings()
        self.route = "-"
        self.wanted = ""  # what a path ends in, where the route leaves it open
        self.key: Key | None = None
        self.ticket: Ticket | None = None
        self.call: Any = None  # the dialect's own, once the body was read
        self.outcome = Outcome.REFUSED
        self.note: dict[str, Any] | None = None  # for the log: what was answered
        given = self.header("x-request-id") or ""
        # NOTE: an id has to be unique, not unguessable, so this needs no system call.
        self.id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"

    def header(self, name: str) -> str | None:
        """Return a header by its name in lower case."""
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    async def answer(self, reply: Reply, send: Send) -> bool:
        """Write an answer; tell whether the system took it before the client hung up, as far as the server can tell."""
        if self._line is not None:
            return await self._line.answer(reply.status, reply.fields(), reply.content)
        await reply.send(send)
        return True

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """Have the client's hanging up told, at once if it has; None: no more."""
        if self._line is not None:
            self._line.when_gone(tell)

    def fields(self, status: int, seconds: float) -> dict[str, Any]:
        """Return what its log line says: never a key, a text or a URL."""
        fields: dict[str, Any] = {"id": self.id, "method": self.method, "route": self.route, "status": status}
        fields["ms"] = round(seconds * 1000, 3)
        if self.note is None and self.key is not None:
            fields["key"] = self.key.id
            if self.ticket is not None and self.ticket.model_id is not None:
                fields["model"] = self.ticket.model_id
        return {
            **fields,
            **(self.note or {}),
            **{f"{name}_ms": round(s * 1000, 3) for name, s in self.timings.stages.items()},
        }


@dataclass(slots=True)
class Reply:
    """An answer. `headers` takes names in lower case."""

    content: bytes
    status: int = 200
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    def fields(self) -> dict[str, str]:
        """Return all headers, those of the content among them."""
        length = str(len(self.content))
        return {"content-length": length, "content-type": self.media_type, **self.headers}

    async def send(self, send: Send) -> None:
        """Write it as ASGI's two messages."""
        headers = [(name.encode(), value.encode("latin-1")) for name, value in self.fields().items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.content})
