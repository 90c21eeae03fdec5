"""A body is read to its end once, within its bounds, and never waited for after its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from senryu.body import DISCARD_BYTES, SMALL_BYTES, Body, Room
from senryu.errors import BodyTimeout, BodyTooLarge, ClientGone, QueueFull


def body(*pieces: bytes, ends: bool = True, **headers: str) -> tuple[Body, list[bytes]]:
    """A body of these pieces, and the pieces that were not taken yet; afterwards nothing ever comes."""
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left) or not ends}

    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Body({b"transfer-encoding": b"chunked"} | named, receive), left


def test_pieces_are_joined() -> None:
    sent, _ = body(b"ab", b"", b"c")
    assert asyncio.run(sent.read(10, 5)) == b"abc"
    assert sent.ended


def test_discarding_after_the_end_waits_for_nothing() -> None:
    sent, _ = body(b"abc")

    async def test() -> None:
        await sent.read(10, 5)
        await asyncio.wait_for(sent.discard(), 1)

    asyncio.run(test())


def test_a_request_without_a_body_has_ended() -> None:
    assert Body({}, lambda: pytest.fail("asked for a body")).ended  # type: ignore[arg-type, return-value]


def test_a_declared_length_over_the_bound_is_refused_before_anything_is_taken() -> None:
    sent, left = body(b"x" * 100, content_length="100")
    with pytest.raises(BodyTooLarge, match="100 bytes; at most 99"):
        asyncio.run(sent.read(99, 5))
    assert left


def test_an_undeclared_length_is_refused_as_soon_as_it_is_over() -> None:
    sent, left = body(b"x" * 60, b"x" * 60, b"x" * 60)
    with pytest.raises(BodyTooLarge, match="more than 100 bytes"):
        asyncio.run(sent.read(100, 5))
    assert len(left) == 1


def test_a_body_that_stops_is_given_up() -> None:
    sent, _ = body(b"abc", ends=False)
    with pytest.raises(BodyTimeout, match="3 bytes"):
        asyncio.run(sent.read(10, 0.01))


def test_an_endless_body_is_discarded_up_to_a_bound() -> None:
    piece = b"x" * (1 << 20)
    sent, left = body(*[piece] * 100)
    asyncio.run(sent.discard())
    assert not sent.ended
    assert 100 - len(left) == DISCARD_BYTES // len(piece) + 1


def test_a_client_that_waits_for_leave_to_send_is_answered_at_once() -> None:
    sent, left = body(b"abc", expect="100-continue")
    asyncio.run(sent.discard())
    assert left
    assert not sent.ended


def test_a_client_that_goes_away_is_noticed() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        asyncio.run(Body({b"content-length": b"5"}, receive).read(10, 5))


# ---- all bodies together -----------------------------------------------------------------------------------


def test_large_bodies_share_a_room_until_they_are_answered() -> None:
    half = b"x" * SMALL_BYTES
    room = Room(4 * SMALL_BYTES)
    first, second, third = (body(half, half, b"x")[0] for _ in range(3))
    asyncio.run(first.read(1 << 20, 5, room))
    with pytest.raises(QueueFull, match="Try again later"):
        asyncio.run(second.read(1 << 20, 5, room))
    small, _ = body(half)
    assert asyncio.run(small.read(1 << 20, 5, room)) == half
    for answered in (first, second, small, small):
        answered.release()
    assert room.held == 0
    assert asyncio.run(third.read(1 << 20, 5, room)) == half + half + b"x"
