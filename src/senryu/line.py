"""What one request and its answer go over: uvicorn's cycle of them, without the messages of ASGI on the way.

An answer is written whole, head and body at once, and a body that has arrived whole is taken without waiting. Knows
HTTP/1.1 and uvicorn; nothing of routes, keys or what a body means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from senryu.transport import Outbox, WatchedTransport

_controls = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class RequestLine:
    """One request's; what exchange.py knows as a Line."""

    __slots__ = ("_cycle", "_outbox", "_tell", "_transport")

    def __init__(self, cycle: RequestResponseCycle, transport: WatchedTransport, outbox: Outbox) -> None:
        self._cycle = cycle
        self._transport = transport
        self._outbox = outbox
        self._tell: Callable[[], None] | None = None

    def whole_body(self) -> bytes | None:
        """Return the request's body if it has arrived to its end and none of it was received yet."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or cycle.response_complete:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        cycle.message_event.clear()
        cycle.flow.resume_reading()  # NOTE: or nobody would learn that the client of a long one has hung up
        return body

    async def answer(self, status: int, headers: Mapping[str, str], content: bytes) -> bool:
        """Write an answer, and tell whether the system took all of it before the client hung up."""
        cycle, transport = self._cycle, self._transport
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return False
        if headers.get("connection") == "close":
            cycle.keep_alive = False
        head = self._head(status, headers)
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        await self._outbox.send(transport, head if cycle.scope["method"] == "HEAD" else head + content)
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            transport.close()
        cycle.on_response()
        return await transport.delivered()

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        # NOTE: what follows a line break could pass for a header.
        if _controls("".join([*headers, *headers.values()])):
            raise ValueError("a header has a control character")
        own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if not self._cycle.keep_alive and "connection" not in headers:
            own += "connection: close\r\n"
        defaults = b"".join([b"%b: %b\r\n" % field for field in self._cycle.default_headers])
        return b"%b%b%b\r\n" % (_STATUS_LINES[status].encode(), defaults, own.encode("latin-1"))

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """Have the client's hanging up told, at once if it has; None: no more."""
        self._tell = tell
        if tell is not None and self._cycle.disconnected:
            tell()

    def lose(self) -> None:
        """Tell that it has hung up."""
        if self._tell is not None:
            self._tell()
