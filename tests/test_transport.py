"""Whether an answer was given: taken by the system, before its client hung up."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvloop

from senryu.line import RequestLine
from senryu.transport import Outbox, WatchedTransport, outbox_of

Test = Callable[[WatchedTransport, socket.socket], Awaitable[None]]


class Protocol(asyncio.Protocol):
    """A connection as protocol.py has it: it tells its transport when it breaks."""

    def __init__(self, made: asyncio.Future[WatchedTransport]) -> None:
        self.made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "writelines")
        self.watched = WatchedTransport(transport)  # type: ignore[arg-type]
        self.made.set_result(self.watched)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.watched.lose()


def connected(test: Test) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[WatchedTransport] = loop.create_future()
        server = await loop.create_server(lambda: Protocol(made), "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        try:
            async with asyncio.timeout(30):
                await test(await made, client)
        finally:
            client.close()
            server.close()

    uvloop.run(run())


LONG = bytes(64 << 20)  # more than the system takes while nobody reads


def test_an_answer_that_the_system_took_was_given() -> None:
    async def test(watched: WatchedTransport, client: socket.socket) -> None:
        assert not watched.hung_up()
        watched.write(b"head body")
        assert await watched.delivered()
        assert client.recv(100) == b"head body"

    connected(test)


def test_an_answer_after_which_the_connection_is_closed_was_given() -> None:
    async def test(watched: WatchedTransport, client: socket.socket) -> None:
        watched.write(b"answer")
        watched.close()
        assert await watched.delivered()
        assert client.recv(100) == b"answer"

    connected(test)


@pytest.mark.parametrize("seen", [False, True], ids=["not seen yet", "seen"])
def test_an_answer_to_a_client_that_has_hung_up_was_not_given(seen: bool) -> None:
    async def test(watched: WatchedTransport, client: socket.socket) -> None:
        client.close()
        while seen and not watched.is_closing():
            await asyncio.sleep(0.01)
        if not watched.hung_up():
            watched.write(b"answer")
        assert not await watched.delivered()
        assert watched.is_closing()

    connected(test)


def test_a_long_answer_is_given_when_its_client_has_read_enough() -> None:
    async def test(watched: WatchedTransport, client: socket.socket) -> None:
        watched.write(LONG)
        given = asyncio.create_task(watched.delivered())
        await asyncio.sleep(0.1)
        assert not given.done()
        client.setblocking(False)
        loop, read = asyncio.get_running_loop(), 0
        while read < len(LONG):
            read += len(await loop.sock_recv(client, 1 << 20))
        assert await given

    connected(test)


@pytest.mark.parametrize("how", ["hangs up", "is aborted"])
def test_a_long_answer_that_is_not_read_to_its_end_was_not_given(how: str) -> None:
    async def test(watched: WatchedTransport, client: socket.socket) -> None:
        watched.write(LONG)
        given = asyncio.create_task(watched.delivered())
        await asyncio.sleep(0.1)
        if how == "hangs up":
            client.close()
        else:
            watched.abort()
        assert not await given

    connected(test)


class Noted:
    """A letter that notes what happens to it in which order."""

    def __init__(self, name: str, noted: list[str], fault: str = "") -> None:
        self.name, self.noted, self.fault = name, noted, fault

    def write(self) -> None:
        self._step("written")

    def close(self) -> None:
        self._step("closed")

    def abort(self) -> None:
        self.noted.append(f"{self.name} is aborted")

    def _step(self, name: str) -> None:
        if self.fault == name:
            raise RuntimeError("it cannot be")
        self.noted.append(f"{self.name} is {name}")


def send_all(letters: list[Noted], noted: list[str]) -> None:
    async def answer(outbox: Outbox, letter: Noted) -> None:
        noted.append(f"{letter.name} is coded")
        await outbox.send(letter)
        noted.append(f"{letter.name} goes on")

    async def run() -> None:
        outbox = outbox_of(asyncio.get_running_loop())
        assert outbox is outbox_of(asyncio.get_running_loop())
        for _ in range(2):
            await asyncio.gather(*(answer(outbox, letter) for letter in letters))

    uvloop.run(run())


def of_each(what: str) -> list[str]:
    return [f"{name} {what}" for name in "abc"]


def test_what_is_ready_together_is_coded_first_and_then_written_together() -> None:
    noted: list[str] = []
    send_all([Noted(name, noted) for name in "abc"], noted)
    expected = of_each("is coded") + of_each("is written") + of_each("is closed") + of_each("goes on")
    assert noted == 2 * expected


@pytest.mark.parametrize("fault", ["written", "closed"])
def test_a_letter_that_cannot_be_sent_harms_no_other(fault: str) -> None:
    noted: list[str] = []
    send_all([Noted("a", noted), Noted("b", noted, fault), Noted("c", noted)], noted)
    expected = of_each("is coded") + of_each("is written") + of_each("is closed") + of_each("goes on")
    expected[expected.index(f"b is {fault}")] = "b is aborted"
    assert noted == 2 * expected


def test_the_outbox_of_a_loop_that_is_gone_is_forgotten() -> None:
    async def run() -> Any:
        return weakref.ref(outbox_of(asyncio.get_running_loop()))

    found = uvloop.run(run())
    gc.collect()
    assert found() is None


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\nb", "a\n", "a\rb", "\x00", "a\x7f"])
def test_a_header_cannot_hold_another(value: str) -> None:
    cycle = SimpleNamespace(
        flow=SimpleNamespace(write_paused=False), disconnected=False, keep_alive=True, default_headers=[]
    )
    line = RequestLine(cast(Any, cycle), cast(Any, None), Outbox())
    with pytest.raises(ValueError, match="control character"):
        asyncio.run(line.answer(200, {"x-request-id": value}, b""))
