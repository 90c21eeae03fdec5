"""A connection's transport that tells whether what is written was taken by the system, and answers written together.

Knows bytes and the event loop's turns; nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

logger = logging.getLogger(__name__)

DELIVERY_SECONDS = 0.02  # between two looks at whether the system has taken a long answer

# NOTE: macOS cannot tell; there an answer may be written to a client that has just hung up.
_HUNG_UP = getattr(select, "POLLRDHUP", 0)


class WatchedTransport:
    """Stands for a transport; anything that is not about writing goes to that one directly."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._given = 0
        self._lost = False  # something that was written, or may have been
        self._hang_ups = select.poll()
        self._hang_ups.register(transport.get_extra_info("socket").fileno(), _HUNG_UP)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it."""
        if self._transport.is_closing():
            self._lost = True
            return
        self._given += len(data)
        self._transport.write(data)

    def hung_up(self) -> bool:
        """Tell whether the client has; then the connection is closed.

        NOTE: a loop that is busy learns late that a client has hung up; its answer must not count as given.
        """
        if not (_HUNG_UP and self._hang_ups.poll(0)):
            return False
        self._lost = True
        self._transport.close()
        return True

    def taken(self) -> int:
        """Count the bytes that the system has taken so far; those it has not are in the write buffer."""
        return self._given - self._transport.get_write_buffer_size()

    async def delivered(self) -> bool:
        """Wait until the system has taken what was written, and tell whether it did before a hang-up."""
        end = self._given
        while not self._lost and self.taken() < end:
            await asyncio.sleep(DELIVERY_SECONDS)
        return not self._lost

    def lose(self) -> None:
        """Note that the connection broke."""
        self._lost = True

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        self._lost = True
        self._transport.abort()


class Letter(Protocol):
    """An answer that is to be written."""

    def write(self) -> None:
        """Write it."""

    def close(self) -> None:
        """Do what has to follow it."""

    def abort(self) -> None:
        """Give it up, and its connection."""


class Outbox:
    """What an event loop's connections are to be sent, all together behind what is ready to run now.

    A batch's answers are ready at once. Written one after the other, each as soon as it is coded, they would wake
    their client as often, and on the same machine take a processor from an engine each time.
    """

    def __init__(self) -> None:
        self._waiting: list[Letter] = []

    async def send(self, letter: Letter) -> None:
        """Have it written, and return when it was.

        NOTE: the loop looks at its connections before; until it is written, anything may happen to the letter's own.
        """
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(letter)
        await asyncio.sleep(0)  # NOTE: what is ready runs in its order, so this goes on behind the flush.

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for letter in waiting:
            self._do(letter.write, letter)
        for letter in waiting:
            self._do(letter.close, letter)

    @staticmethod
    def _do(step: Callable[[], None], letter: Letter) -> None:
        try:
            step()
        except Exception:  # NOTE: or those behind it would get nothing
            logger.exception("an answer was not written")
            letter.abort()


_outboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()


def outbox_of(loop: asyncio.AbstractEventLoop) -> Outbox:
    """Return the one of an event loop."""
    return _outboxes.setdefault(loop, Outbox())
