"""A head that comes again means what the parser says that it means, and nothing else is taken for one."""

from __future__ import annotations

import asyncio
import re
import socket
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from senryu import heads
from senryu.exchange import LINE
from senryu.heads import UNKNOWN_HEADS, Heads
from senryu.protocol import GuardedProtocol

START = b"POST /v1/embeddings?a=1 HTTP/1.1\r\n"
SCOPE = {"method": "POST", "path": "/v1/embeddings", "headers": [(b"host", b"a"), (b"content-length", b"2")]}


def request(
    length: bytes = b"2", body: bytes = b"hi", name: bytes = b"Content-Length: ", end: bytes = b""
) -> bytes:
    return START + b"Host: a\r\n" + name + length + b"\r\n" + end + b"\r\n" + body


def kept(data: bytes | None = None, scope: dict[str, Any] = SCOPE) -> Heads:
    memory = Heads()
    memory.keep(request() if data is None else data, b"/v1/embeddings?a=1", scope)
    return memory


@pytest.mark.parametrize("body", [b"", b"h", b"hello", b"h" * 5000, b"\r\n\r\n"])
def test_a_known_head_is_read_with_any_length(body: bytes) -> None:
    length = b"%d" % len(body)
    read = kept().read(request(length, body))
    assert read is not None
    url, scope, start = read
    assert (url, request(length, body)[start:]) == (b"/v1/embeddings?a=1", body)
    assert scope == {**SCOPE, "headers": [(b"host", b"a"), (b"content-length", length)]}


@pytest.mark.parametrize(
    "data",
    [
        request(body=b"h"),
        request(body=b"hi!"),
        request(body=b"hi" + request()),
        request(b"+2"),
        request(b" 2"),
        request(b"2 "),
        request(b""),
        request("²".encode("latin-1")),
        request(b"0" * 20 + b"2"),
        request(end=b"X: y\r\n"),
        request(end=b"Content-Length: 2\r\n"),
        request().replace(b"Host: a", b"Host: b"),
        request().replace(b"POST", b"GET "),
        request()[:-3],
        b"\r\n" + request(),
        b"",
    ],
)
def test_anything_else_is_left_to_the_parser(data: bytes) -> None:
    assert kept().read(data) is None


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (request(), [(b"host", b"a"), (b"content-length", b"2"), (b"transfer-encoding", b"chunked")]),
        (request(), [(b"host", b"a"), (b"content-length", b"2"), (b"content-length", b"2")]),
        (request(), [(b"host", b"a"), (b"content-length", b"2"), (b"folded", b"line")]),
        (request(), [(b"host", b"a")]),
        (request(name=b"Content-Length:\t"), SCOPE["headers"]),
        (request().replace(b"\r\n", b"\n"), SCOPE["headers"]),
        (request().replace(b"Host: a\r\n", b"Host: a\n"), SCOPE["headers"]),
        (b"\r\n" + request(), SCOPE["headers"]),
        (request(end=b"X: " + b"y" * heads.MOST_BYTES + b"\r\n"), [*SCOPE["headers"], (b"x", b"y")]),
    ],
    ids=["chunked", "twice", "folded", "none", "tab", "feeds", "a feed", "before", "long"],
)
def test_a_head_that_could_mean_something_else_is_not_kept(
    data: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    assert kept(data, {**SCOPE, "headers": headers}).read(data) is None


def test_where_heads_never_come_again_none_is_kept_any_more() -> None:
    memory = Heads()
    for _ in range(UNKNOWN_HEADS - 1):
        memory.keep(request(), b"/", SCOPE)
        assert memory.are_kept
    assert memory.read(request()) is not None
    for _ in range(UNKNOWN_HEADS):
        assert memory.are_kept
        memory.keep(request(), b"/", SCOPE)
    assert not memory.are_kept
    assert memory.read(request()) is None


# ---- with a parser -----------------------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.socket, self._other = socket.socketpair()

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        self.socket.close()
        self._other.close()

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": self.socket, "peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(
            name, default
        )


Seen = list[tuple[dict[str, Any], bytes]]


def talk(pieces: list[bytes]) -> tuple[Seen, bytes, bool]:
    """Return what an application was asked, what it answered, and whether the connection was closed."""
    seen: Seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        else:
            return
        seen.append(({name: value for name, value in scope.items() if name != LINE}, body))
        assert await scope[LINE].answer(200, {"content-length": "2"}, b"ok")

    async def run() -> tuple[Seen, bytes, bool]:
        config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)
        config.load()
        protocol, wire = GuardedProtocol(config, ServerState(), {}), Wire()
        protocol.connection_made(wire)
        for piece in pieces:
            if wire.closed:
                break
            protocol.data_received(piece)
            for _ in range(4):
                await asyncio.sleep(0)
        closed = wire.closed
        protocol.connection_lost(None)
        wire.close()
        await asyncio.sleep(0)
        return seen, re.sub(rb"x-request-id: \w+", b"", wire.written), closed

    return asyncio.run(run())


HEADS = (
    b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\ncontent-length: %d\r\nX-B: c\r\n\r\n",
    b"POST /v2/embed?q=%%20 HTTP/1.1\r\nContent-Length: %d\r\nHost: a\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length:%d\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: 0%d\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.0\r\nHost: a\r\nContent-Length: %d\r\n\r\n",
    b"\r\nPOST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n",
)
BODY = st.sampled_from([b"", b"a", b"abc", b"x" * 40, HEADS[0] % 0, b"\r\n\r\n"])
WITH_LENGTH = st.tuples(st.sampled_from([*HEADS[:2] * 4, *HEADS]), BODY).map(
    lambda one: one[0] % len(one[1]) + one[1]
)
OTHERS = st.sampled_from(
    [
        b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        HEADS[0] % 5 + b"abc",
        b"nonsense\r\n\r\n",
    ]
)
TALK = st.lists(st.one_of(WITH_LENGTH, WITH_LENGTH, WITH_LENGTH, OTHERS), min_size=1, max_size=8)
PLAIN = HEADS[0] % 3 + b"abc"


@settings(max_examples=400, deadline=None)
@example([PLAIN, PLAIN + PLAIN, PLAIN], [])
@example([PLAIN, HEADS[0] % 2 + b"abc", PLAIN], [])
@given(TALK, st.lists(st.integers(0, 400), max_size=6))
def test_every_talk_goes_as_it_goes_with_the_parser_alone(requests: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(requests)
    ends = [sum(map(len, requests[:number])) for number in range(len(requests) + 1)]
    places = sorted({*ends, *(cut for cut in cuts if cut < len(whole))})
    pieces = [whole[start:end] for start, end in pairwise(places)]
    with mock.patch.object(Heads, "read", return_value=None):
        expected = talk(pieces)
    assert talk(pieces) == expected


def test_a_head_is_kept_without_its_request() -> None:
    with mock.patch.object(Heads, "keep", autospec=True) as keep:
        talk([PLAIN])
    (_, data, _, scope), _ = keep.call_args
    assert data == PLAIN
    assert scope["headers"] == [(b"host", b"a"), (b"content-length", b"3")]
    assert LINE not in scope


def test_a_head_that_comes_again_is_not_parsed() -> None:
    with mock.patch.object(
        GuardedProtocol, "_feed", autospec=True, side_effect=GuardedProtocol._feed
    ) as feed:
        seen, written, _ = talk([PLAIN, HEADS[0] % 1 + b"a", HEADS[1] % 1 + b"b", HEADS[1] % 2 + b"bb"])
    assert [body for _, body in seen] == [b"abc", b"a", b"b", b"bb"]
    assert written.count(b"\r\n\r\nok") == 4
    assert feed.call_count == 2
