"""What a connection may send before, between and instead of requests, over bare sockets against a real server."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from senryu import protocol
from senryu.exchange import LINE
from senryu.protocol import HEAD_BYTES, HEAD_FIELDS, GuardedProtocol
from server import Answer, Server

H2C = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
)
WEBSOCKET = ("Connection: keep-alive, Upgrade", "Upgrade: websocket")
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: senryu\r\n\r\n"
MODELS = b"GET /available-models HTTP/1.1\r\nHost: senryu\r\n\r\n"


def head(start: str, *headers: str) -> bytes:
    return "".join(line + "\r\n" for line in (start, "Host: senryu", *headers, "")).encode()


def post(server: Server, body: bytes, *headers: str) -> bytes:
    bearer, length = f"Authorization: Bearer {server.key}", f"Content-Length: {len(body)}"
    return head("POST /v1/embeddings HTTP/1.1", bearer, length, *headers) + body


def embed(server: Server, *headers: str) -> bytes:
    return post(server, json.dumps({"model": server.model_id, "input": "frog"}).encode(), *headers)


def padded(size: int) -> bytes:
    """Return a GET whose head has this many bytes."""
    bare = head("GET /livez HTTP/1.1", "X: ")
    return bare.replace(b"X: ", b"X: " + b"a" * (size - len(bare)))


def answers(connection: socket.socket, count: int) -> list[Answer]:
    """Read so many answers, and hold that nothing comes after them."""
    file = connection.makefile("rb")
    found = [_answer(file) for _ in range(count)]
    connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    return found


def last_answer(connection: socket.socket) -> Answer:
    """Read one answer, and hold that the server closes after it."""
    file = connection.makefile("rb")
    found = _answer(file)
    assert file.read() == b""
    assert found.headers["connection"] == "close"
    return found


class _Reader:
    """What http.client reads an answer from; it would close a socket's own file."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def makefile(self, *_: object) -> Any:
        return self

    def close(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _answer(file: Any) -> Answer:
    response = http.client.HTTPResponse(_Reader(file))  # type: ignore[arg-type]
    response.begin()
    return Answer.read(response)


def exchange(server: Server, sent: bytes | Iterable[bytes], count: int) -> list[Answer]:
    with server.socket() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in [sent] if isinstance(sent, bytes) else sent:
            connection.sendall(piece)
        return answers(connection, count)


def assert_refused(answer: Answer, status: int, *says: str) -> None:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"]
    error = answer.json()["error"]
    assert sorted(error) == ["code", "message", "type"]
    assert (error["code"], error["type"]) == (status, "invalid_request_error")
    assert all(fragment in error["message"] for fragment in says)


def assert_serves(server: Server) -> None:
    assert server.get("/livez").status == 200


def serves(server: Server) -> bool:
    try:
        return server.get("/livez").status == 200
    except (ConnectionError, http.client.BadStatusLine):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def resident_bytes(server: Server) -> int:
    """Return the server's memory, and measure its peak from now on."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return peak_bytes(server)


def peak_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def send_until_stuck(connection: socket.socket, requests: bytes) -> int:
    """Send and read no answers, until the server no longer reads either; return how many bytes it took."""
    sent = 0
    try:
        while sent < 100_000_000:
            sent += connection.send(requests)
    except TimeoutError:
        pass
    return sent


# ---- upgrades ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upgrade", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
def test_an_upgrade_is_ignored_and_the_request_answered(
    tiny_server: Server, upgrade: tuple[str, ...]
) -> None:
    (answer,) = exchange(tiny_server, embed(tiny_server, *upgrade), 1)
    assert answer.body == exchange(tiny_server, embed(tiny_server), 1)[0].body
    assert len(answer.embeddings()) == 1


def test_a_request_after_an_ignored_upgrade_is_answered_too(tiny_server: Server) -> None:
    sent = embed(tiny_server, *H2C) + MODELS + head("GET /livez HTTP/1.1", *H2C) + MODELS
    first, second, third, fourth = exchange(tiny_server, sent, 4)
    assert len(first.embeddings()) == 1
    assert third.json() == {"status": "ok"}
    assert second.json() == fourth.json() == tiny_server.get("/available-models").json()


@pytest.mark.parametrize("upgrade", [(), H2C, WEBSOCKET], ids=["none", "h2c", "websocket"])
def test_a_body_that_looks_like_a_request_is_a_body(tiny_server: Server, upgrade: tuple[str, ...]) -> None:
    (answer,) = exchange(tiny_server, post(tiny_server, LIVEZ, *upgrade), 1)
    assert answer.status == 400
    assert "JSON" in answer.json()["error"]["message"]


def test_a_chunked_body_after_an_ignored_upgrade_is_read(tiny_server: Server) -> None:
    body = json.dumps({"model": tiny_server.model_id, "input": "frog"}).encode()
    bearer = f"Authorization: Bearer {tiny_server.key}"
    start = head("POST /v1/embeddings HTTP/1.1", bearer, "Transfer-Encoding: chunked", *H2C)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    embedded, alive = exchange(tiny_server, start + chunks + LIVEZ, 2)
    assert len(embedded.embeddings()) == 1
    assert alive.json() == {"status": "ok"}


def test_a_body_of_two_lengths_is_refused_with_an_upgrade_too(tiny_server: Server) -> None:
    with tiny_server.socket() as connection:
        connection.sendall(post(tiny_server, b"0\r\n\r\n", "Transfer-Encoding: chunked", *H2C))
        assert_refused(last_answer(connection), 400)


def test_many_pipelined_upgrades_are_all_answered(tiny_server: Server) -> None:
    found = exchange(tiny_server, head("GET /livez HTTP/1.1", *H2C) * 500, 500)
    assert {answer.body for answer in found} == {b'{"status":"ok"}'}


def test_a_tunnel_is_refused(tiny_server: Server) -> None:
    with tiny_server.socket() as connection:
        connection.sendall(b"CONNECT example:443 HTTP/1.1\r\nHost: example\r\n\r\n" + LIVEZ)
        assert_refused(last_answer(connection), 400, "proxy")


# ---- order and pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [(), H2C], ids=["plain", "h2c"])
def test_a_request_may_arrive_a_byte_at_a_time(tiny_server: Server, headers: tuple[str, ...]) -> None:
    sent = embed(tiny_server, *headers) + LIVEZ
    embedded, alive = exchange(tiny_server, (sent[at : at + 1] for at in range(len(sent))), 2)
    assert len(embedded.embeddings()) == 1
    assert alive.json() == {"status": "ok"}


def test_pipelined_requests_are_answered_in_order(tiny_server: Server) -> None:
    count = 2000
    sent = b"".join(head("GET /livez HTTP/1.1", f"X-Request-Id: {number}") for number in range(count))
    found = exchange(tiny_server, sent, count)
    assert [answer.headers["x-request-id"] for answer in found] == [str(number) for number in range(count)]


def test_pipelined_bodies_of_many_pieces_are_answered_in_order(tiny_server: Server) -> None:
    body = json.dumps({"model": tiny_server.model_id, "input": ["a" * 2000] * 96}).encode()
    found = exchange(tiny_server, (post(tiny_server, body) + embed(tiny_server)) * 5, 10)
    assert [len(answer.embeddings()) for answer in found] == [96, 1] * 5


def test_requests_that_queue_on_a_connection_are_not_kept_without_bound(tiny_server: Server) -> None:
    assert_serves(tiny_server)
    before = resident_bytes(tiny_server)
    with tiny_server.socket() as connection:
        connection.settimeout(1)
        assert send_until_stuck(connection, embed(tiny_server) * 1000) < 50_000_000
        assert peak_bytes(tiny_server) - before < 50_000_000
    assert_serves(tiny_server)


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(tiny_server: Server) -> None:
    sent = embed(tiny_server, "Expect: 100-continue", *H2C)
    start, body = sent.split(b"\r\n\r\n")
    with tiny_server.socket() as connection:
        connection.sendall(start + b"\r\n\r\n")
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(interim), socket.MSG_WAITALL) == interim
        connection.sendall(body)
        (answer,) = answers(connection, 1)
    assert len(answer.embeddings()) == 1


# ---- heads without bound -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 3, 50])
def test_a_head_up_to_the_bound_is_answered(tiny_server: Server, pieces: int) -> None:
    sent = padded(HEAD_BYTES - 100)
    step = len(sent) // pieces + 1
    (answer,) = exchange(tiny_server, (sent[at : at + step] for at in range(0, len(sent), step)), 1)
    assert answer.status == 200


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(padded(HEAD_BYTES + 100), id="one field"),
        pytest.param(padded(HEAD_BYTES + 100).removesuffix(b"\r\n\r\n"), id="without an end"),
        pytest.param(b"GET /" + b"a" * HEAD_BYTES + b" HTTP/1.1\r\n\r\n", id="target"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a" * 2 * HEAD_BYTES, id="name"),
        pytest.param(b"GET / HTTP/1.1\r\nX:" + b" " * 2 * HEAD_BYTES, id="white space"),
        pytest.param(b"\r\n" * HEAD_BYTES, id="empty lines"),
        pytest.param(head("GET / HTTP/1.1", *["X: a"] * HEAD_FIELDS), id="fields"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 1_000_000, id="a million fields"),
        pytest.param(padded(20_000_000), id="20 MB"),
        pytest.param(
            b"POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: "
            + b"a" * 20_000_000,
            id="trailer",
        ),
    ],
)
def test_a_head_over_the_bound_is_refused_and_not_kept(tiny_server: Server, sent: bytes) -> None:
    assert_serves(tiny_server)
    before = resident_bytes(tiny_server)
    with tiny_server.socket() as connection:
        connection.sendall(sent)
        answer = last_answer(connection)
    if b"POST" not in sent:  # whose answer can be earlier than its trailer
        assert_refused(answer, 431, str(HEAD_BYTES), str(HEAD_FIELDS))
    assert peak_bytes(tiny_server) - before < 4_000_000
    assert_serves(tiny_server)


def test_as_many_fields_as_allowed_are_answered(tiny_server: Server) -> None:
    (answer,) = exchange(tiny_server, head("GET /livez HTTP/1.1", *["X: a"] * (HEAD_FIELDS - 1)), 1)
    assert answer.status == 200


def test_a_trailer_is_no_header(tiny_server: Server) -> None:
    start = head("POST /v1/embeddings HTTP/1.1", "Transfer-Encoding: chunked")
    trailer = f"Authorization: Bearer {tiny_server.key}\r\nX-Request-Id: trailer\r\n".encode()
    answer, alive = exchange(tiny_server, start + b"2\r\n{}\r\n0\r\n" + trailer + b"\r\n" + LIVEZ, 2)
    assert answer.status == 401
    assert answer.headers["x-request-id"] != "trailer"
    assert alive.status == 200


# ---- not HTTP ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfrog\r\n",
    ],
)
def test_what_is_not_http_gets_the_error_shape(tiny_server: Server, sent: bytes) -> None:
    with tiny_server.socket() as connection:
        connection.sendall(sent)
        assert_refused(last_answer(connection), 400)
    assert_serves(tiny_server)


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (padded(HEAD_BYTES + 100), 431),
        (b"POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfrog\r\n", 400),
    ],
    ids=["garbage", "head", "body"],
)
def test_what_is_refused_is_answered_after_the_requests_before_it(
    tiny_server: Server, broken: bytes, status: int
) -> None:
    with tiny_server.socket() as connection:
        connection.sendall(embed(tiny_server) + LIVEZ + broken + LIVEZ)
        file = connection.makefile("rb")
        assert len(_answer(file).embeddings()) == 1
        assert _answer(file).json() == {"status": "ok"}
        assert_refused(_answer(file), status)
        assert file.read() == b""


def test_refusals_are_counted(tiny_server: Server) -> None:
    with tiny_server.socket() as connection:
        connection.sendall(b"GARBAGE\r\n\r\n")
        last_answer(connection)
    assert re.search(r'_requests_total\{.*status="400".*\} [1-9]', tiny_server.get("/metrics").body.decode())


# ---- time --------------------------------------------------------------------------------------------------


class Quick(GuardedProtocol):
    """The protocol with little patience."""

    head_seconds = 0.3
    unread_seconds = 0.5


LARGE_BYTES = 40_000_000


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answer, `/slow` after twice the patience, and `/large` with more than a connection holds."""
    await asyncio.sleep(2 * Quick.head_seconds if scope["path"] == "/slow" else 0)
    body = b"a" * LARGE_BYTES if scope["path"] == "/large" else b"ok"
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def _talk(
    *sent: bytes, pause: float = 0.0, answers: int | None = None, seconds: float = 30
) -> tuple[bytes, bool]:
    """Send the pieces, read until so many answers came or the server closed; return what came and whether it did."""
    config = uvicorn.Config(_app, lifespan="off", ws="none", log_config=None)
    config.load()
    loop = asyncio.get_running_loop()
    state = ServerState()
    listening = await loop.create_server(lambda: Quick(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    for piece in sent:
        if reader.at_eof():
            break
        writer.write(piece)
        await asyncio.sleep(pause)
    came = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while came.count(b"\r\n\r\nok") != answers and (piece := await reader.read(1000)):
                came += piece
    closed = reader.at_eof()
    writer.close()
    listening.close()
    await asyncio.sleep(0)
    return came, closed


@pytest.mark.parametrize(
    "sent", [(), (b"G",), (b"\r\n",), (LIVEZ[:-2],)], ids=["none", "1", "empty", "all but 2"]
)
def test_a_connection_without_a_whole_head_is_closed(sent: tuple[bytes, ...]) -> None:
    assert asyncio.run(_talk(*sent)) == (b"", True)


def test_a_head_that_drips_is_closed() -> None:
    dripping = [LIVEZ[at : at + 1] for at in range(len(LIVEZ))]
    assert asyncio.run(_talk(*dripping, pause=Quick.head_seconds / 5)) == (b"", True)


def test_a_half_head_after_an_answer_is_closed_and_silence_after_it_is_not() -> None:
    came, closed = asyncio.run(_talk(LIVEZ, seconds=3 * Quick.head_seconds))
    assert came.endswith(b"ok")
    assert not closed
    for pieces in ([LIVEZ, LIVEZ[:9]], [LIVEZ + LIVEZ[:9]]):
        came, closed = asyncio.run(_talk(*pieces, pause=0.05))
        assert came.count(b"200 OK") == 1
        assert closed


def test_an_answer_may_take_longer_than_a_head() -> None:
    slow = LIVEZ.replace(b"/livez", b"/slow")
    for pieces in ([slow], [slow + slow], [slow[:9], slow[9:] + LIVEZ[:9], LIVEZ[9:]]):
        expected = b"".join(pieces).count(b"\r\n\r\n")
        came, _ = asyncio.run(_talk(*pieces, pause=0.05, answers=expected))
        assert came.count(b"200 OK") == expected


def test_heads_are_given_ten_seconds() -> None:
    assert GuardedProtocol.head_seconds == protocol.HEAD_SECONDS == 10


LARGE = LIVEZ.replace(b"/livez", b"/large")
CLOSING = LARGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@asynccontextmanager
async def _asked(sent: bytes) -> AsyncIterator[tuple[socket.socket, ServerState]]:
    """Send to a server of its own, and read nothing."""
    config = uvicorn.Config(_app, lifespan="off", ws="none", log_config=None)
    config.load()
    loop = asyncio.get_running_loop()
    state = ServerState()
    listening = await loop.create_server(lambda: Quick(config, state, {}), "127.0.0.1", 0)
    with socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, listening.sockets[0].getsockname())
        await loop.sock_sendall(connection, sent)
        yield connection, state
    listening.close()


@pytest.mark.parametrize("sent", [LARGE, CLOSING, LARGE * 3], ids=["kept alive", "closing", "pipelined"])
def test_an_answer_that_nobody_reads_is_given_up(sent: bytes) -> None:
    async def ask_and_wait() -> None:
        async with _asked(sent) as (_, state), asyncio.timeout(30):
            while not state.connections:
                await asyncio.sleep(0.01)
            while state.connections or state.tasks:
                await asyncio.sleep(0.05)

    asyncio.run(ask_and_wait())


def test_an_answer_that_is_read_slowly_arrives_whole() -> None:
    async def read_slowly() -> int:
        size = 0
        async with _asked(CLOSING) as (connection, _), asyncio.timeout(60):
            while piece := await asyncio.get_running_loop().sock_recv(connection, 2_000_000):
                size += len(piece)
                await asyncio.sleep(0.1 if size < 30_000_000 else 0)
        return size

    assert asyncio.run(read_slowly()) > LARGE_BYTES


# ---- descriptors -------------------------------------------------------------------------------------------


def test_the_server_may_open_as_many_connections_as_the_system_allows(tiny_server: Server) -> None:
    limits = Path(f"/proc/{tiny_server.process.pid}/limits").read_text()
    soft, hard = re.search(r"Max open files\s+(\d+)\s+(\d+)", limits).groups()  # type: ignore[union-attr]
    assert int(soft) == min(int(hard), 1 << 20)


def test_it_is_said_once_that_descriptors_run_out(tiny_folder: Path, tmp_path: Path) -> None:
    with Server(tmp_path / "home", tiny_folder) as server, ExitStack() as opened:
        used = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 40, used + 40))
        crowd = [opened.enter_context(server.socket()) for _ in range(100)]
        for connection in crowd[:20]:
            connection.sendall(LIVEZ)
            assert connection.recv(12) == b"HTTP/1.1 200"
        opened.close()
        wait_until(lambda: server.log().count("descriptors") == 1)
        wait_until(lambda: serves(server))
        assert server.log().count("descriptors") == 1


# ---- while an answer waits to be written --------------------------------------------------------------------


async def _meanwhile(happens: Callable[[GuardedProtocol], None]) -> tuple[bytes, list[bool]]:
    """Let something happen to a connection between an answer and its writing; return what came, and what is told."""
    protocols: list[GuardedProtocol] = []
    told: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answering = asyncio.create_task(scope[LINE].answer(200, {"content-length": "2"}, b"ok"))
        await asyncio.sleep(0)
        happens(protocols[-1])
        told.append(await answering)

    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)
    config.load()
    state = ServerState()

    def connected() -> GuardedProtocol:
        protocols.append(GuardedProtocol(config, state, {}))
        return protocols[-1]

    listening = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    writer.write(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
    async with asyncio.timeout(30):
        came = await reader.read(-1)
    writer.close()
    listening.close()
    assert protocols[-1]._line is not None
    assert protocols[-1]._line._answer[2] == b""  # nor is it kept
    return came, told


def test_a_body_that_breaks_before_the_answer_is_written_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    came, told = asyncio.run(_meanwhile(lambda protocol: protocol.data_received(b"zz\r\n")))
    assert re.findall(rb"HTTP/1.1 (\d+)", came) == [b"400"]
    assert told == [False]
    assert "not written" not in caplog.text


def test_a_server_that_ends_before_an_answer_is_written_says_so_in_it() -> None:
    came, told = asyncio.run(_meanwhile(lambda protocol: protocol.shutdown()))
    assert came.startswith(b"HTTP/1.1 200 OK\r\n")
    assert came.endswith(b"connection: close\r\n\r\nok")
    assert told == [True]


def test_a_connection_that_breaks_before_its_answer_is_written_was_given_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    came, told = asyncio.run(_meanwhile(lambda protocol: protocol.transport.abort()))
    assert (came, told) == (b"", [False])
    assert "not written" not in caplog.text
