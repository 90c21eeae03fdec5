"""A request's body: read whole within a bound of bytes and of time, or discarded so that the answer is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from senryu.errors import BodyTimeout, BodyTooLarge, ClientGone

DISCARD_BYTES = 64 << 20
DISCARD_SECONDS = 5.0


class Body:
    """One request's body, taken from the server a piece at a time."""

    def __init__(
        self, headers: Mapping[bytes, bytes], receive: Callable[[], Awaitable[MutableMapping[str, Any]]]
    ) -> None:
        self._receive = receive
        self._declared = headers.get(b"content-length", b"0").decode("latin-1")
        self._waits_for_us = headers.get(b"expect", b"").lower() == b"100-continue"
        #: Whether nothing more will come.
        self.ended = self._declared == "0" and b"transfer-encoding" not in headers

    async def read(self, most: int, seconds: float) -> bytes:
        """Return it whole. Raises BodyTooLarge, as early as the headers tell, BodyTimeout, ClientGone."""
        if self._declared.isdecimal() and int(self._declared) > most:
            raise BodyTooLarge(f"The body has {self._declared} bytes; at most {most} are allowed.")
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(seconds):
                while not self.ended:
                    pieces.append(await self._next())
                    size += len(pieces[-1])
                    if size > most:
                        raise BodyTooLarge(f"The body has more than {most} bytes, the most that are allowed.")
        except TimeoutError:
            raise BodyTimeout(
                f"The body did not arrive within {seconds:g} s; {size} bytes of it did."
            ) from None
        return b"".join(pieces)

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
