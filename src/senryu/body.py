"""A request's body: read whole within a bound of bytes and of time, or discarded so that the answer is heard.

Knows a body's bytes and how many all bodies may hold together. Nothing of what they mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from senryu.errors import BodyTimeout, BodyTooLarge, ClientGone, QueueFull
from senryu.patience import Patience

DISCARD_BYTES = 64 << 20
DISCARD_SECONDS = 5.0
ROOM_BYTES = 256 << 20
SMALL_BYTES = 32 * 1024  # bodies up to this length are always let in; the queue bounds their texts


class Room:
    """What the larger bodies may hold together, from their first bytes until they are answered."""

    def __init__(self, most: int = ROOM_BYTES) -> None:
        self.most = most
        self.held = 0

    def take(self, size: int) -> None:
        """Hold so many bytes more. Raises QueueFull."""
        if self.held + size > self.most:
            raise QueueFull(
                f"Other requests' bodies hold {self.held} of the {self.most} bytes that all may. Try again later.",
                retry_after=1,
            )
        self.held += size


class Body:
    """One request's body, taken from the server a piece at a time."""

    def __init__(
        self,
        headers: Mapping[bytes, bytes],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        arrived: Callable[[], bytes | None] | None = None,
    ) -> None:
        """`arrived` gives the body at once if it is there to its end and nothing of it was received."""
        self._receive = receive
        self._arrived = arrived
        self._room: Room | None = None
        self._held = 0
        self._declared = headers.get(b"content-length", b"0").decode("latin-1")
        self._waits_for_us = headers.get(b"expect", b"").lower() == b"100-continue"
        #: Whether nothing more will come.
        self.ended = self._declared == "0" and b"transfer-encoding" not in headers

    async def read(self, most: int, seconds: float, room: Room | None = None) -> bytes:
        """Return it whole. Raises BodyTooLarge, as early as the headers tell, BodyTimeout, ClientGone, QueueFull.

        A large one takes its place in `room`, and keeps it until `release`.
        """
        self._room = room
        if self._declared.isdecimal() and int(self._declared) > most:
            raise BodyTooLarge(f"The body has {self._declared} bytes; at most {most} are allowed.")
        if self._arrived and not self.ended and (whole := self._arrived()) is not None:
            self.ended = True
            self._check(len(whole), most)
            return whole
        pieces: list[bytes] = []
        size = 0
        try:
            with Patience(seconds):
                while not self.ended:
                    pieces.append(await self._next())
                    size += len(pieces[-1])
                    self._check(size, most)
        except TimeoutError:
            raise BodyTimeout(
                f"The body did not arrive within {seconds:g} s; {size} bytes of it did."
            ) from None
        return b"".join(pieces)

    def _check(self, size: int, most: int) -> None:
        """Hold the room for so many bytes. Raises BodyTooLarge, QueueFull."""
        if size > most:
            raise BodyTooLarge(f"The body has more than {most} bytes, the most that are allowed.")
        if self._room is not None and size > SMALL_BYTES:
            self._room.take(size - self._held)
            self._held = size

    def release(self) -> None:
        """Give back what it took of the room."""
        if self._room is not None:
            self._room.held -= self._held
            self._held = 0

    async def discard(self) -> None:
        """Take in the rest and keep nothing, within bounds; `ended` tells whether that was all.

        A client that sends its whole body before it reads would not hear an answer given earlier.
        """
        if self._waits_for_us:
            return
        taken = 0
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while not self.ended and taken <= DISCARD_BYTES:
                    taken += len(await self._next())
        except (TimeoutError, ClientGone):
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._waits_for_us = False
        self.ended = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece
