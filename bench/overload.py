"""What does the server do when ten times more connect than its queue can hold? It says so, and goes on.

    python bench/overload.py --data DATA --precision bf16

Three rounds on one server: an interactive client alone; beside it ten times more connections than fit into the queue,
each with 8 passages a request, all of which ask again at once; the same with half of them waiting as retry-after says.
The interactive client has a key of its own. Ends with status 1 on an answer other than 200 and 429, a 429 without a
sound retry-after, an answer that does not come, memory that grows, or other bits afterwards. Knows the storm and what
must hold; a connection's way is load.py's.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

import mix
from baselines import servers
from baselines.servers import KEY, NAME, SERVERS, Running
from buckets import read as read_tokens
from load import Connection, Request, Result, percentile
from mix import PAUSE, WORKLOADS, Texts, Workload
from senryu import models
from senryu.config import DEFAULT_MODEL, Paths
from senryu.engine.machine import native_precisions
from senryu.store import Store
from soak import Memory, bits, memory, watch

TIMES = 10  # more connections than requests that fit into the queue
STORM = Workload("storm", "passages", 8, 0)
QUERY = WORKLOADS[0]
BOUND_SECONDS = 60  # within which every request must be answered
LONE_SECONDS = 1.0  # within which a lone query must be answered afterwards
GROWTH = 1.1  # of the most memory, from the first storm to the second
KEY_SECONDS = 5  # in which a new key must be known


@dataclass(slots=True)
class Seen(Result):
    """What some connections saw, refusals included."""

    refused: list[float] = field(default_factory=list)  # seconds until each 429
    retry_after: list[int] = field(default_factory=list)  # seconds asked for
    unsound: int = 0  # 429s that ask for no whole number of seconds, 1 or more
    unanswered: int = 0

    @property
    def slowest(self) -> float:
        """Seconds of the slowest answer of any kind."""
        return max([*self.latencies, *self.refused], default=0)


class Client(Connection):
    """A connection that looks at retry-after, and keeps to it if it is honest."""

    def __init__(
        self, url: str, requests: Iterator[Request], seen: Seen, pause: float, *, honest: bool
    ) -> None:
        super().__init__(url, requests, seen, pause)
        self._seen = seen
        self._honest = honest
        self._wait = 0.0

    def _answered(self) -> None:
        self._wait = 0.0
        if self._status == 429:
            self._note_refusal(bytes(self._received).split(b"\r\n\r\n", 1)[0].lower())
        super()._answered()

    def _note_refusal(self, head: bytes) -> None:
        self._seen.refused.append(time.perf_counter() - self._sent)
        values = [line[12:].strip() for line in head.split(b"\r\n") if line.startswith(b"retry-after:")]
        if len(values) != 1 or not values[0].isdigit() or int(values[0]) < 1:
            self._seen.unsound += 1
            return
        self._seen.retry_after.append(int(values[0]))
        # NOTE: a little more, at random: all that were refused together would come back together.
        self._wait = int(values[0]) * random.uniform(1, 1.5) if self._honest else 0

    def _next(self) -> None:
        if time.perf_counter() + self._wait >= self._until:
            self._transport.close()
        elif self._wait:
            asyncio.get_running_loop().call_later(self._wait, self._send)
        else:
            super()._next()

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return self._waiting and not self.done.done()


# ---- the storm ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Round:
    """What happened in one round."""

    title: str
    connections: int
    storm: Seen
    interactive: Seen
    memory: list[Memory]

    @property
    def most(self) -> float:
        """The most memory that the server held, in MB."""
        return max((sample.resident for sample in self.memory), default=0)


async def connected(url: str, requests: Sequence[Request], seen: Seen, pause: float, honest: bool) -> Client:
    """Open one connection."""
    place = urlsplit(url)
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: Client(url, cycle(requests), seen, pause, honest=honest),
        place.hostname or "",
        place.port or 80,
    )
    return client


async def one_round(
    title: str, running: Running, storm: Sequence[Request], queries: Sequence[Request], plan: Plan
) -> Round:
    """Put a storm of connections and one interactive client on the server."""
    seen, interactive = Seen(plan.seconds), Seen(plan.seconds)
    clients = [await connected(running.url, queries, interactive, PAUSE, False)]
    for number in range(plan.connections):
        start = number * len(storm) // plan.connections
        mine = [*storm[start:], *storm[:start]]
        clients.append(await connected(running.url, mine, seen, 0, number < plan.honest * plan.connections))
    until = time.perf_counter() + plan.seconds
    for client in clients:
        client.start(until)
    samples: list[Memory] = []
    watching = asyncio.create_task(watch(running.process.pid, samples, 0.25))
    await asyncio.wait([client.done for client in clients], timeout=plan.seconds + BOUND_SECONDS)
    watching.cancel()
    seen.unanswered = sum(client.waiting for client in clients)
    return Round(title, plan.connections, seen, interactive, samples)


@dataclass(frozen=True, slots=True)
class Plan:
    """How many connections, for how long, and the share of them that waits as it is told to."""

    connections: int
    seconds: float
    honest: float = 0


def most_connections(wanted: int) -> int:
    """Raise the limit of open files as far as it goes, and return how many connections it allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - 100)


def second_key(running: Running) -> str:
    """Make another key for the server's resource, as the store does, and wait until the server knows it."""
    paths = Paths.from_environ({"SENRYU_HOME": running.home.name})
    with Store.open(paths.database) as store:
        secret = store.create_key([store.resources()[0].id])[1]
    until = time.perf_counter() + KEY_SECONDS
    while True:
        try:
            bits(running.url, ["known?"], secret)
        except OSError:
            if time.perf_counter() > until:
                raise
            time.sleep(0.1)
        else:
            return secret


# ---- results -----------------------------------------------------------------------------------------------


def faults(rounds: Sequence[Round], lone: float, same: bool) -> list[str]:
    """Say what must not be."""
    found = []
    for one in rounds:
        for seen in (one.storm, one.interactive):
            others = {status: count for status, count in seen.statuses.items() if status not in (200, 429)}
            if others:
                found.append(f"{one.title}: answers other than 200 and 429 (0: broken off): {others}")
            if seen.unsound:
                found.append(f"{one.title}: {seen.unsound} 429s without a sound retry-after")
            if seen.unanswered or seen.slowest > BOUND_SECONDS:
                found.append(f"{one.title}: {seen.unanswered} not answered, slowest {seen.slowest:.0f} s")
        if one.connections and not one.storm.statuses[429]:
            found.append(f"{one.title}: nothing was refused: that was no overload")
    if rounds[-1].most > GROWTH * rounds[-2].most:
        found.append(f"memory grows: {rounds[-2].most:.0f} MB in a storm, {rounds[-1].most:.0f} in the next")
    if lone > LONE_SECONDS:
        found.append(f"afterwards a lone query took {lone:.1f} s")
    if not same:
        found.append("afterwards the same text has other bits")
    return found


def row(one: Round) -> list[str]:
    """Return a line of the table."""
    storm, interactive = one.storm, one.interactive
    asked = storm.retry_after or [0]
    return [
        one.title,
        f"{storm.statuses[200]:,}",
        f"{storm.statuses[429]:,}",
        f"{sum(storm.statuses.values()) - storm.statuses[200] - storm.statuses[429]}",
        f"{statistics.median_low(asked)} ({min(asked)} to {max(asked)})" if storm.retry_after else "–",
        f"{percentile(storm.refused, 0.5):,.0f}",
        f"{storm.percentile(0.5):,.0f} / {storm.percentile(0.99):,.0f}",
        f"{storm.texts_per_second:,.0f}",
        f"{storm.slowest:.1f} s",
        f"{interactive.percentile(0.5):,.1f} / {interactive.percentile(0.99):,.1f}",
        f"{interactive.statuses[200]:,} / {interactive.statuses[429]:,}",
        f"{one.most:.0f}",
    ]


def table(rounds: Sequence[Round]) -> str:
    """Write the table."""
    head = [
        *("round", "200", "429", "other", "retry-after, s", "429 p50 ms", "200 p50 / p99 ms", "passages/s"),
        *("slowest answer", "interactive p50 / p99 ms", "its 200 / 429", "most memory, MB"),
    ]
    lines = [head, ["---"] * len(head), *(row(one) for one in rounds)]
    return "\n".join("| " + " | ".join(line).replace("nan", "–") + " |" for line in lines)


# ---- command -----------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    native = [precision.value for precision in native_precisions()]
    parser = argparse.ArgumentParser(description="Ten times more connections than the server's queue holds.")
    parser.add_argument(
        "--data", type=Path, help="folder with queries.txt and passages.txt; default: made up"
    )
    parser.add_argument("--model", type=Path, default=Paths.from_environ().models / DEFAULT_MODEL)
    parser.add_argument("--precision", choices=native, default=native[0])
    parser.add_argument("--queue-tokens", type=int, default=131_072, help="that may wait: the server's bound")
    parser.add_argument("--connections", type=int, help="default: ten times what fits into the queue")
    parser.add_argument("--seconds", type=float, default=20, help="of each round")
    given = parser.parse_args()
    if not (given.model / "tokenizer.json").exists():
        parser.error(f"{given.model} holds no model: run `senryu pull`, or name its folder with --model")
    return given


def tenfold(texts: Texts, folder: Path, queue_tokens: int) -> int:
    """Return ten times as many connections as there are requests in a full queue."""
    sample = texts.passages[:400]
    tokens = sum(len(one.ids) for one in read_tokens(models.load_spec(folder), sample))
    return int(TIMES * queue_tokens / (tokens / len(sample) * STORM.per_request))


def storms(running: Running, texts: Texts, connections: int, seconds: float) -> list[Round]:
    """Run the three rounds."""
    storm = texts.requests(running.url, KEY, NAME, STORM, 0)
    queries = texts.requests(running.url, second_key(running), NAME, QUERY, 0)
    rounds = []
    for title, plan in (
        ("interactive alone", Plan(0, seconds)),
        ("all ask again at once", Plan(connections, seconds)),
        ("half keep to retry-after", Plan(connections, seconds, honest=0.5)),
    ):
        print(f"{title}: {plan.connections} connections, {seconds:g} s", file=sys.stderr, flush=True)
        rounds.append(uvloop.run(one_round(title, running, storm, queries, plan)))
    return rounds


def main() -> None:
    """Start the server, storm it, print; status 1 if something is not as it must be."""
    given = arguments()
    texts = mix.read(given.data)
    connections = most_connections(given.connections or tenfold(texts, given.model, given.queue_tokens))
    server = next(server for server in SERVERS if server.id == f"senryu-{given.precision}")
    options = ("--queue-tokens", str(given.queue_tokens))
    running = servers.start(replace(server, arguments=(*server.arguments, *options)), given.model, {})
    try:
        alone = bits(running.url, [texts.passages[0]])
        before = memory(running.process.pid)
        rounds = storms(running, texts, connections, given.seconds)
        began = time.perf_counter()
        same = bits(running.url, [texts.passages[0]]) == alone
        lone = time.perf_counter() - began
        after = memory(running.process.pid)
    finally:
        running.close()
    print(f"{server.title}, {connections} connections, {STORM.per_request} passages a request\n")
    print(table(rounds))
    print(f"\nMemory {before.resident:.0f} MB before, {after.resident:.0f} MB after the storms.")
    print(f"A lone text afterwards: {lone * 1000:.1f} ms, {'the same' if same else 'other'} bits.")
    found = faults(rounds, lone, same)
    print("\n".join(f"FAULT: {fault}" for fault in found) or "Everything as it must be.")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
