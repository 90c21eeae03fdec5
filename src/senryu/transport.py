"""A connection's transport that sends what is written in one turn of the event loop together.

uvicorn writes an answer's head and its body apart, and uvloop sends each at once: two system calls, and a client that
is woken twice. Knows bytes and the loop; nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from typing import Any


class JoiningTransport:
    """Stands for a transport; anything that is not about writing goes to that one directly."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []
        self._flushed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it at the end of this turn."""
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def taken(self) -> int:
        """Count the bytes that the system has taken so far; those it has not are in the write buffer."""
        return self._flushed - self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        written, self._written = self._written, []
        if written and not self._transport.is_closing():
            self._flushed += sum(map(len, written))
            self._transport.writelines(written)

    def write_eof(self) -> None:
        """Send what was written, and end this direction."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Send what was written, and close."""
        self._flush()
        self._transport.close()
