"""The process around the application: its socket, its signals, its end. Knows uvicorn; nothing of embeddings."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from senryu.app import App
from senryu.errors import SettingError

# Longer than the idle time of common load balancers (60 s), so that they, not we, close an idle connection.
KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address. Raises SettingError saying what is in the way."""
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingError(
            f"cannot listen on {host} port {port}: {error.strerror or error}. Choose another with --port or --host."
        ) from None


def origin(listening: socket.socket) -> str:
    """Return the origin under which this machine reaches a socket; of a wildcard address, the loopback one."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn, with a stop that finishes what is in flight and ends with status 0; a second signal ends at once."""

    def __init__(self, app: App, *, drain_seconds: int, on_ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
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
        await super().startup(sockets)
        if self.started:
            self._on_ready()

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
