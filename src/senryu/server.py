"""The process around the application: its socket, its signals, its end. Knows uvicorn; nothing of embeddings."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from senryu.app import App
from senryu.errors import SettingError
from senryu.protocol import GuardedProtocol

# Longer than the idle time of common load balancers (60 s), so that they, not we, close an idle connection.
KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048
MOST_DESCRIPTORS = 1 << 20  # where the system sets no limit of its own


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Take an address, to listen on once everything is ready; `shared` with others that say so, too.

    Raises SettingError saying what is in the way.

    NOTE: until then connections are refused, which health checks understand; left waiting, they would hang.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with contextlib.ExitStack() as on_failure:
            taken = on_failure.enter_context(socket.socket(family, socket.SOCK_STREAM))
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken.bind(address)
            on_failure.pop_all()
        return taken
    except OSError as error:
        raise SettingError(
            f"cannot listen on {host} port {port}: {error.strerror or error}. Choose another with --port or --host."
        ) from None


def origin(listening: socket.socket) -> str:
    """Return the origin under which this machine reaches a socket; of a wildcard address, the loopback one."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{port}"


# NOTE: an engine's thread needs the interpreter between two batches. After Python's own 5 ms its processor would have
# stood still for longer than a batch takes.
SWITCH_SECONDS = 0.0003


# NOTE: what is there when the server starts stays, and nearly all that a request makes is freed without the collector;
# after Python's own 700 objects it would look through the requests under way every few of them.
COLLECTED_OBJECTS = 20_000


def collect_seldom() -> None:
    """Have the garbage collector leave alone what is there now, and look at the rest after so many new objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_OBJECTS)


def raise_descriptor_limit() -> None:
    """Let this process have as many connections as the system allows it, not the few that it begins with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return
    with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit than the one it tells
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _waiting(listening: socket.socket) -> list[socket.socket]:
    """Accept every connection that is waiting."""
    listening.setblocking(False)
    accepted = []
    with contextlib.suppress(OSError):
        while True:
            accepted.append(listening.accept()[0])
    return accepted


class Server(uvicorn.Server):
    """uvicorn, with a stop that finishes what is in flight and ends with status 0; a second signal ends at once."""

    def __init__(self, app: App, *, drain_seconds: int, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=GuardedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=drain_seconds,
                backlog=BACKLOG,
            )
        )
        self._app = app
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell that requests are answered from now on."""
        raise_descriptor_limit()
        sys.setswitchinterval(SWITCH_SECONDS)
        await super().startup(sockets)
        collect_seldom()
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take in the connections that are waiting to be accepted, then stop listening and drain.

        NOTE: closing a socket that listens resets those; a client that sees its connection opened counts on an answer.
        """
        loop = asyncio.get_running_loop()
        accepted = [
            loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
            for listening in sockets or []
            for connection in _waiting(listening)
        ]
        await super().shutdown(sockets)
        await asyncio.gather(*accepted, return_exceptions=True)

    def _protocol(self) -> GuardedProtocol:
        return GuardedProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while serving."""
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second."""
        if self._app.draining:
            os._exit(128 + sig)
        self._app.draining = True
        self.should_exit = True
