"""HTTP/1.1 before there is a request: heads are bounded in bytes, fields and time, and upgrades are ignored.

Knows bytes, connections and uvicorn's protocol class, of which it is a guarded kind; it answers what never becomes
a request in the API's error shape. Nothing of routes, keys or what a body means: that is app.py's.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
from collections import deque
from http import HTTPStatus
from typing import Any, ClassVar, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from senryu import metrics
from senryu.body import DISCARD_BYTES, DISCARD_SECONDS
from senryu.dialects import heroku
from senryu.exchange import LINE
from senryu.heads import Heads
from senryu.line import RequestLine
from senryu.transport import WatchedTransport, outbox_of

logger = logging.getLogger("senryu.request")

HEAD_BYTES = 64 * 1024
HEAD_FIELDS = 128
HEAD_SECONDS = 10.0
# For idle connections at the end; a client learns from its next answer that it must leave.
LINGER_SECONDS = 1.0

UNREAD_SECONDS = 30.0  # a client that takes none of its answer for so long will not any more

PIECE_BYTES = 16 * 1024  # the parser is given no more at once, so that it can be stopped in time
WAITING_PIECES = 16
SPARE_DESCRIPTORS = 16

_UPGRADE_FIELDS = (b"upgrade", b"http2-settings")
_TOO_LARGE = (
    f"The request's head has more than {HEAD_BYTES} bytes or {HEAD_FIELDS} fields, the most that are allowed."
)
_NO_TUNNEL = "CONNECT asks for a proxy, and this server is none."


class Refusal(Exception):
    """Raise inside a parser's callback to stop it and to refuse the request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def _refusal(error: httptools.HttpParserError) -> Refusal:
    """Return the refusal that stopped the parser, or one that says what it could not read."""
    if isinstance(error.__context__, Refusal):
        return error.__context__
    reason = "the request target" if isinstance(error, httptools.HttpParserCallbackError) else str(error)
    return Refusal(400, f"The request is not valid HTTP/1.1: {reason}.")


class Flow(FlowControl):
    """uvicorn's flow control, in which reading can be held back whatever the application would like."""

    held = False

    def resume_reading(self) -> None:
        """Read again, unless that is held back."""
        if not self.held:
            super().resume_reading()


class GuardedProtocol(HttpToolsProtocol):
    """One connection. Every request on it is answered in its order, and nothing that it sends is kept unbounded."""

    #: A new connection has this long for its first byte, and each head for the rest from its own first byte on.
    head_seconds: ClassVar[float] = HEAD_SECONDS
    unread_seconds: ClassVar[float] = UNREAD_SECONDS
    _warned: ClassVar[bool] = False  # that descriptors run out, once in the life of the process

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: deque[bytes | memoryview] = deque()  # received and not yet given to the parser
        self._unread = 0  # bytes that the parser took without making anything of them
        self._progress = False
        self._in_head = False
        self._in_body = False
        self._head_timed = False
        self._upgrading = False
        self._refusal: bytes | None = None
        self._discarded = 0
        self._answering: RequestResponseCycle | None = (
            None  # uvicorn's `cycle` is the last one that was parsed
        )
        self._line: RequestLine | None = None
        self._reader_watch: asyncio.TimerHandle | None = None
        self._parsed_heads = 0
        self._heads = Heads()

    # ---- the connection --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a first byte."""
        self._watched = WatchedTransport(transport)
        self._outbox = outbox_of(self.loop)
        watched = cast(asyncio.Transport, self._watched)
        super().connection_made(watched)
        self.flow = Flow(watched)
        self._close_in(self.head_seconds)
        if not self._warned:
            self._warn_if_descriptors_run_out()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request in flight, and forget what was waiting."""
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
            if self._line is not None:
                self._line.lose()
        if exc is not None:
            self._watched.lose()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._reader_watch is not None:
            self._reader_watch.cancel()
        self._waiting.clear()
        self.pipeline.clear()

    def shutdown(self) -> None:
        """End after the request in flight; an idle connection first gets a while for one that is on its way.

        NOTE: closed at once, a request that its client sends in the same moment would be lost without an answer.
        """
        if self.cycle is None or self.cycle.response_complete:
            self._close_in(LINGER_SECONDS)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Take in what arrived: to parse, to keep until it is its turn, or to discard."""
        if self._refusal is not None:
            self._discard(len(data))
            return
        if self._waiting or self.pipeline or len(data) > PIECE_BYTES:
            whole = memoryview(data)
            self._waiting.extend(whole[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))
        elif not self._take_again(data):
            self._feed_and_keep(data)
        if self._waiting or self.pipeline:
            self._go_on()
        self._watch()

    def on_response_complete(self) -> None:
        """Go on with what waits for this answer."""
        last = not self.pipeline
        super().on_response_complete()
        self._watch_reader()
        if self.transport.is_closing():
            return
        self._head_timed = False
        if self._refusal is not None:
            if last:
                self._send_refusal()
            return
        if self._waiting:
            self._go_on()
        if self._in_head:
            self._watch()

    def _go_on(self) -> None:
        """Parse what waits until a request has to queue, and read on while little waits.

        NOTE: uvicorn reads and parses on while requests queue: 10 MB of pipelined GETs would be gigabytes of state.
        Without reading, on the other hand, nobody learns that the client has hung up.
        """
        while self._waiting and not self.pipeline:
            self._feed(self._waiting.popleft())
        assert isinstance(self.flow, Flow)
        self.flow.held = len(self._waiting) > WAITING_PIECES
        if self.flow.held:
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()

    def _watch(self) -> None:
        """Time a head from its first bytes on, and nothing while a request is being answered."""
        if self._refusal is not None:
            return
        if self._in_body or not (self.cycle is None or self.cycle.response_complete):
            self._unset_keepalive_if_required()
            self._head_timed = False
        elif not self._head_timed:
            self._close_in(self.head_seconds)
            self._head_timed = True

    def _close_in(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        self._line = RequestLine(cycle, self._watched, self._outbox)
        cast(dict[str, Any], cycle.scope)[LINE] = self._line
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """Let the application wait until the client reads, and watch that it does."""
        super().pause_writing()
        self._watch_reader()

    def timeout_keep_alive_handler(self) -> None:
        """Close, and watch that the client reads what it is still owed."""
        super().timeout_keep_alive_handler()
        self._watch_reader()

    def _watch_reader(self) -> None:
        """Begin to watch that the client takes what it is sent: closing waits for that, however long it lasts."""
        if self._reader_watch is None:
            self._check_later(self._watched.taken())

    def _check_later(self, taken: int) -> None:
        self._reader_watch = self.loop.call_later(self.unread_seconds, self._check_reader, taken)

    def _check_reader(self, before: int) -> None:
        self._reader_watch = None
        if not self.transport.get_write_buffer_size():
            return
        taken = self._watched.taken()
        if taken == before:
            self.transport.abort()
        else:
            self._check_later(taken)

    def _warn_if_descriptors_run_out(self) -> None:
        """Say so while there still is one: of a connection that gets none, the event loop tells nobody."""
        connection = self.transport.get_extra_info("socket")
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if limit != resource.RLIM_INFINITY and connection.fileno() >= limit - SPARE_DESCRIPTORS:
            GuardedProtocol._warned = True
            logger.warning(
                "file descriptors run out: further connections are dropped. Raise the limit (ulimit -n).",
                extra={"fields": {"limit": limit, "connections": len(self.connections)}},
            )

    # ---- the parser ------------------------------------------------------------------------------------------

    def _feed(self, piece: bytes | memoryview) -> None:
        self._progress = False
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(_refusal(error))
        else:
            self._unread = 0 if self._progress else self._unread + len(piece)
            if self._unread > HEAD_BYTES or (self._unread and len(self.headers or ()) > HEAD_FIELDS):
                self._refuse(Refusal(431, _TOO_LARGE))

    def _ignore_upgrade(self, rest: bytes | memoryview) -> None:
        """Have the parser read the head again without its upgrade, and then what follows as this request's body.

        RFC 9110 section 7.8: a server may ignore an upgrade. The parser cannot: it takes the body for a new protocol.
        """
        kept = [b"%b: %b\r\n" % field for field in self.headers if field[0] not in _UPGRADE_FIELDS]
        if len(kept) == len(self.headers):
            self._refuse(Refusal(400, "The request asks for an upgrade that cannot be ignored."))
            return
        version = self.parser.get_http_version().encode()
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        self._upgrading = False
        self._unread = 0
        if rest:
            self._waiting.appendleft(rest)
        self._waiting.appendleft(b"".join((line, *kept, b"\r\n")))

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End a head and begin its request. Raises Refusal if it is too large."""
        self._progress = True
        self._in_head = False
        if len(self.headers) > HEAD_FIELDS or (self._unread and self._head_size() > HEAD_BYTES):
            raise Refusal(431, _TOO_LARGE)
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise Refusal(400, _NO_TUNNEL)
            self._upgrading = True
            return
        self._in_body = True
        self._parsed_heads += 1
        super().on_headers_complete()
        self.headers = []  # NOTE: for trailers; one named like a field of the head must not pass for it.

    def _is_between(self) -> bool:
        """Tell whether the next byte begins a request, and all before are answered."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and not (self._in_head or self._in_body or self._unread or self._upgrading)

    def _feed_and_keep(self, data: bytes) -> None:
        is_kept, heads = self._heads.are_kept and self._is_between(), self._parsed_heads
        self._feed(data)
        is_whole = self._parsed_heads == heads + 1 and not (self._in_head or self._in_body or self._refusal)
        if is_kept and is_whole and self.cycle.keep_alive and not self.expect_100_continue:
            # NOTE: not of a request that is answered; its line would keep all that there was of it.
            scope = {name: value for name, value in self.scope.items() if name != LINE}
            self._heads.keep(data, self.url, scope)

    def _take_again(self, data: bytes) -> bool:
        """Begin a request whose head is known, and that has arrived whole, as the parser would have it begun."""
        read = self._heads.read(data) if self._is_between() else None
        if read is None:
            return False
        self.url, scope, body = read
        scope["state"] = self.app_state.copy()
        self.scope, self.headers = cast(Any, scope), []
        self.cycle = RequestResponseCycle(
            self.scope, self.transport, self.flow, self.logger, self.access_logger, self.access_log,
            self.server_state.default_headers, asyncio.Event(),
            expect_100_continue=False, keep_alive=True, on_response=self.on_response_complete,
        )  # fmt: skip
        self.cycle.body += data[body:]
        self.on_message_complete()
        self._start_asgi_task(self.cycle, self.app)
        return True

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        """Hand on a piece of a body."""
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._progress = True
        if not self._upgrading:
            self._in_body = False
            super().on_message_complete()

    # ---- refusing --------------------------------------------------------------------------------------------

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what cannot be a request, after the requests before it, and take nothing more from its sender."""
        self._waiting.clear()
        self._refusal = self._render(refusal)
        pending = not (self.cycle is None or self.cycle.response_complete)
        if self._in_body and self.pipeline:
            self.pipeline.popleft()  # the request whose body broke, before its turn came
        elif self._in_body and pending:
            pending = False
            self._abandon()
        if not pending:
            self._send_refusal()

    def _abandon(self) -> None:
        """Tell the application that the rest of the body will not come; what it would answer is not sent."""
        if self.cycle.response_started:
            self._refusal = b""  # half an answer is out
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def _render(self, refusal: Refusal) -> bytes:
        request_id = secrets.token_hex(16)
        metrics.observe("-", refusal.status, {})
        fields = {"id": request_id, "method": "-", "route": "-", "status": refusal.status}
        logger.info("request", extra={"fields": fields})
        body = heroku.render_error(refusal.status, refusal.message)
        headers = (
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"x-request-id", request_id.encode()),
        )
        status = f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n"
        return b"".join((status.encode(), *(b"%b: %b\r\n" % field for field in headers), b"\r\n", body))

    def _send_refusal(self) -> None:
        """Answer, and go on taking in and throwing away for a while: a client still sending would not hear it else."""
        assert isinstance(self.flow, Flow)
        self.transport.write(self._refusal or b"")
        self.transport.write_eof()
        self.flow.held = False
        self.flow.resume_reading()
        self._close_in(DISCARD_SECONDS)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > DISCARD_BYTES:
            self.timeout_keep_alive_handler()
