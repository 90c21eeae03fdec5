"""What one request costs the processor beside its vectors: instructions from the socket's bytes to the answer's.

The real protocol, application and pipeline in one process, with an engine that answers at once and a transport that is
no socket. Counted by valgrind, because instructions repeat to a part in a thousand on a machine whose time does not.
SENRYU_HOME is a home in which the default model has been served once:

    python bench/http_path.py            # counts; some minutes
    python bench/http_path.py --src OTHER/src --src src
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FEW, MANY = 100, 900  # the difference leaves the start out
BODY = '{"model": "all-minilm-l6-v2", "input": "how many people live in the city number %d ?"}'


def main() -> None:
    """Count, or with --requests be what is counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--src", action="append", help="source folder of a version; repeat to compare")
    parser.add_argument("--requests", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sources = options.src or [str(Path(__file__).parents[1] / "src")]
    if options.requests:
        answer_requests(sources[0], options.requests)
        return
    for source in sources:
        few, many = (count(source, number) for number in (FEW, MANY))
        print(f"{source}: {(many - few) // (MANY - FEW):,} instructions a request", flush=True)


def count(source: str, requests: int) -> int:
    """Return the instructions of a whole process that answers so many requests."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    done = subprocess.run(
        [*command, sys.executable, __file__, "--src", source, "--requests", str(requests)],
        env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    assert found, done.stderr
    return int(found[1].replace(",", ""))


class Instant:
    """An engine whose vectors are there already."""

    name, signature, streams, reproducible, loss = "openvino", "instant", 1, True, None
    batch_seconds = 0.025

    def __init__(self) -> None:
        self.precision = importlib.import_module("senryu.types").Precision.F32
        numpy = importlib.import_module("numpy")
        vectors = numpy.random.default_rng(0).standard_normal((1, 384)).astype(numpy.float32)
        self._vectors = importlib.import_module("senryu.outputs").normalise(vectors)
        self._tile = numpy.tile

    def bucket(self, length: int) -> int:
        return -(-length // 16) * 16

    def computed(self, tokens: int) -> int:
        return tokens

    def run(self, batch: Any) -> Any:
        return self._tile(self._vectors, (len(batch.lengths), 1))

    def close(self) -> None:
        pass


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and tells of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.told: Callable[[], None] = lambda: None
        self.socket, self._other = socket.socketpair()

    def write(self, data: Any) -> None:
        self.written += bytes(data)
        self.told()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"socket": self.socket, "peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}
        return known.get(name, default)


def answer_requests(source: str, requests: int) -> None:
    """Build what `senryu serve` builds, and answer requests one after the other."""
    sys.path.insert(0, source)
    engine = importlib.import_module("senryu.engine")
    server_module = importlib.import_module("senryu.server")
    serve = importlib.import_module("senryu.cli.serve")
    settings = importlib.import_module("senryu.config").Settings.load({"port": 0, "log_level": "warning"})
    engine.load = lambda *_, **__: Instant()  # type: ignore[attr-defined]
    server_module.Server.run = lambda server, sockets: asyncio.run(_answer(server, settings, requests))
    importlib.import_module("uvloop").install()
    serve.run(settings, time.perf_counter())


async def _answer(server: Any, settings: Any, requests: int) -> None:
    protocol_class = importlib.import_module("senryu.protocol").GuardedProtocol
    state = importlib.import_module("uvicorn.server").ServerState()
    server.config.load()
    await server.config.app.start()
    server.config.app._watcher.cancel()  # what goes by the clock would be counted many times over
    wire = Wire()
    protocol = protocol_class(config=server.config, server_state=state, app_state={})
    protocol.connection_made(wire)
    key = json.loads(settings.paths.config_vars.read_text())["default"]["EMBEDDING_KEY"]
    for number in range(requests):
        body = BODY % number
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n"
        answer = await _ask(wire, protocol, f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        assert answer.startswith(b"HTTP/1.1 200 "), answer
    os._exit(0)  # what comes behind is not a request's


async def _ask(wire: Wire, protocol: Any, request: bytes) -> bytes:
    whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def look() -> None:
        head, _, body = wire.written.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length and len(body) >= int(length[1]) and not whole.done():
            whole.set_result(wire.written)

    wire.written, wire.told = b"", look
    protocol.data_received(request)
    return await whole


if __name__ == "__main__":
    main()
