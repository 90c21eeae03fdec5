"""A load generator that costs little: raw HTTP/1.1 over asyncio protocols, requests built beforehand.

    python bench/load.py --url http://127.0.0.1:8080 --key KEY --texts queries.txt --per-request 1 --connections 32

Every connection sends its next request when it has read the whole answer to the last one (a closed loop), and waits
for the last. Counts answers of status 200 alone; any other is shown, a dropped connection as 0. Knows no workload
and no server: mix.py and compare.py use it as a module.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it goes over the wire, and what it asks for."""

    wire: bytes
    texts: int
    tokens: int = 0


@dataclass(slots=True)
class Result:
    """What one run saw: seconds of each good answer, and how many answers had each status.

    NOTE: where an answer takes as long as a run, whole answers are too coarse a count. A request that ends after
    the run counts by the share of its time that lay within; nothing is sent meanwhile, so slow servers gain a little.
    """

    seconds: float
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    texts: float = 0
    tokens: float = 0

    @property
    def texts_per_second(self) -> float:
        """Texts answered in a second."""
        return self.texts / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Tokens answered in a second, padding not counted; 0 where the requests do not say theirs."""
        return self.tokens / self.seconds

    @property
    def failures(self) -> int:
        """Answers other than 200, and connections that broke."""
        return sum(count for status, count in self.statuses.items() if status != 200)

    def percentile(self, share: float) -> float:
        """Latency in milliseconds below which that share of the good answers stayed."""
        return percentile(self.latencies, share)

    def add(self, request: Request, status: int, sent: float, now: float, until: float) -> None:
        """Count one answer."""
        self.statuses[status] += 1
        if status == 200:
            within = min(1.0, (until - sent) / (now - sent))
            self.latencies.append(now - sent)
            self.texts += within * request.texts
            self.tokens += within * request.tokens


def percentile(latencies: Sequence[float], share: float) -> float:
    """Return the latency in milliseconds below which that share stayed; NaN of none."""
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else float("nan")


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, a random pause if there is to be one, the next request.

    One that the server ends after an answer, as some do after a hundred, is opened again.
    """

    def __init__(self, url: str, requests: Iterator[Request], result: Result, pause: float) -> None:
        self._url = url
        self._requests = requests
        self._result = result
        self._pause = pause
        self._received = bytearray()
        self._whole = 0
        self._status = 0
        self._waiting = False
        self._is_last = False
        self._until = 0.0
        self._opening: asyncio.Task[object] | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is no subclass
        if self._opening:
            self._is_last = False
            self._send()

    def start(self, until: float) -> None:
        """Send the first request, after a pause if there are to be pauses; send none after `until`."""
        self._until = until
        self._next()

    def _next(self) -> None:
        if self._pause:
            asyncio.get_running_loop().call_later(random.expovariate(1 / self._pause), self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        if self._sent >= self._until or self._transport.is_closing():
            self._transport.close()
            return
        self._request = next(self._requests)
        self._waiting = True
        self._transport.write(self._request.wire)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._whole:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            self._status = int(head[9:12])
            self._is_last = b"\r\nconnection: close" in head
            length = head.find(b"content-length:")
            assert length >= 0, head
            self._whole = end + 4 + int(head[length + 15 :].split(b"\r\n", 1)[0])
        if len(self._received) >= self._whole:
            self._answered()

    def _answered(self) -> None:
        self._waiting = False
        self._result.add(self._request, self._status, self._sent, time.perf_counter(), self._until)
        self._received.clear()
        self._whole = 0
        if self._is_last and time.perf_counter() < self._until:
            self._transport.close()
        else:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting:
            self._result.statuses[0] += 1
        elif self._is_last and time.perf_counter() < self._until:
            place = urlsplit(self._url)
            opening = asyncio.get_running_loop().create_connection(
                lambda: self, place.hostname or "", place.port or 80
            )
            self._opening = asyncio.ensure_future(opening)
            self._opening.add_done_callback(self._opened)
            return
        if not self.done.done():
            self.done.set_result(None)

    def _opened(self, opening: asyncio.Task[object]) -> None:
        if opening.cancelled() or opening.exception():  # nobody listens any more: as good as dropped
            self._result.statuses[0] += 1
            if not self.done.done():
                self.done.set_result(None)


def build(
    url: str,
    key: str,
    model: str,
    texts: Sequence[str],
    per_request: int,
    path: str = "/v1/embeddings",
    tokens: Sequence[int] = (),
) -> list[Request]:
    """Build requests of `per_request` texts each; `tokens` says how many each text has, if that is of interest."""
    place = urlsplit(url)
    made = []
    for start in range(0, len(texts) - per_request + 1, per_request):
        part = list(texts[start : start + per_request])
        body = json.dumps({"model": model, "input": part[0] if per_request == 1 else part}).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append(Request(head.encode() + body, per_request, sum(tokens[start : start + per_request])))
    return made


async def load(
    url: str, requests: Sequence[Request], connections: int, seconds: float, pause: float = 0
) -> Result:
    """Keep `connections` requests in flight for so many seconds; with a pause, a mean of it between requests."""
    place = urlsplit(url)
    result = Result(seconds)
    loop = asyncio.get_running_loop()
    step = max(1, len(requests) // connections)
    protocols = []
    for number in range(connections):
        rotated = cycle([*requests[number * step :], *requests[: number * step]])
        one = partial(Connection, url, rotated, result, pause)
        _, protocol = await loop.create_connection(one, place.hostname or "", place.port or 80)
        protocols.append(protocol)
    until = time.perf_counter() + seconds
    for protocol in protocols:
        protocol.start(until)
    await asyncio.wait_for(asyncio.gather(*(protocol.done for protocol in protocols)), seconds + 60)
    return result


def main() -> None:
    """Measure one workload and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--texts", type=Path, required=True, help="one text a line")
    parser.add_argument("--per-request", type=int, default=1)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    texts = args.texts.read_text("utf-8").splitlines()
    requests = build(args.url, args.key, args.model, [text[:2048] for text in texts], args.per_request)
    rates = []
    for _ in range(args.rounds):
        result = uvloop.run(load(args.url, requests, args.connections, args.seconds))
        rates.append(result.texts_per_second)
        print(
            f"{result.texts_per_second:,.0f} texts/s  p50 {result.percentile(0.5):.2f} ms  "
            f"p99 {result.percentile(0.99):.2f} ms  {dict(result.statuses)}"
        )
    print(f"median {statistics.median(rates):,.0f} texts/s")


if __name__ == "__main__":
    main()
