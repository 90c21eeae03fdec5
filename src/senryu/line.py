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

# Of an answer: its head but for a last field, that field where it is still to be told, and its content.
_NOTHING = b"", b"", b""


class RequestLine:
    """One request's; what exchange.py knows as a Line."""

    __slots__ = ("_answer", "_cycle", "_is_written", "_outbox", "_tell", "_transport")

    def __init__(self, cycle: RequestResponseCycle, transport: WatchedTransport, outbox: Outbox) -> None:
        self._cycle = cycle
        self._transport = transport
        self._outbox = outbox
        self._tell: Callable[[], None] | None = None
        self._answer = _NOTHING
        self._is_written = False

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
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return False
        if headers.get("connection") == "close":
            cycle.keep_alive = False
        farewell = b"" if "connection" in headers else b"connection: close\r\n"
        head = self._head(status, headers)
        self._answer = head, farewell, b"" if cycle.scope["method"] == "HEAD" else content
        await self._outbox.send(self)
        return self._is_written and await self._transport.delivered()

    def write(self) -> None:
        """Write the answer, unless its request was given up meanwhile."""
        cycle, (head, farewell, content) = self._cycle, self._answer
        self._answer = _NOTHING  # NOTE: the connection keeps its last request, and with it this line.
        if cycle.disconnected:
            return
        cycle.response_started = self._is_written = True
        cycle.waiting_for_100_continue = False
        if not self._transport.hung_up():
            self._transport.write(b"%b%b\r\n%b" % (head, b"" if cycle.keep_alive else farewell, content))

    def close(self) -> None:
        """Let the next request of the connection have its turn, or close it."""
        if not self._is_written:
            return
        cycle = self._cycle
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()

    def abort(self) -> None:
        """Break the connection off."""
        self._transport.abort()

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        # NOTE: what follows a line break could pass for a header.
        if _controls("".join([*headers, *headers.values()])):
            raise ValueError("a header has a control character")
        own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        defaults = b"".join([b"%b: %b\r\n" % field for field in self._cycle.default_headers])
        return b"%b%b%b" % (_STATUS_LINES[status].encode(), defaults, own.encode("latin-1"))

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """Have the client's hanging up told, at once if it has; None: no more."""
        self._tell = tell
        if tell is not None and self._cycle.disconnected:
            tell()

    def lose(self) -> None:
        """Tell that it has hung up."""
        if self._tell is not None:
            self._tell()
