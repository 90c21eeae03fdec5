"""The workloads: their texts, and how each is put on a server; above all the mix of a bulk and an interactive client.

    python bench/mix.py --url http://127.0.0.1:8080 --key KEY [--data DATA]

runs the mix against one server that already runs. Knows no server by name; compare.py runs every workload on each.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from load import Request, Result, build, load

MAX_CHARS = 2048
PAUSE = 0.05  # mean seconds; a random pause, so that a request does not always follow on the heels of a batch

_COMMON_WORDS = """the of and to in a is that for it was on are as with be by this from at which or an have not but they
were their one all more when there can been has would who will also people about other into time its some could
these two may then first new after only year work made many where most such over between water system city country
government state number war world history company people language river school music science energy market health
animal cell light price population power field research island century law food family design software network
engine temperature pressure surface model data theory result value change different important large small high low
late public national local common natural human social economic political modern ancient"""


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts of a kind, so many a request, over so many connections."""

    id: str
    kind: str
    per_request: int
    connections: int

    @property
    def title(self) -> str:
        """Say it in words."""
        what = "1 query" if self.per_request == 1 else f"{self.per_request} {self.kind}"
        return f"{what} a request, {self.connections} connection{'s' if self.connections > 1 else ''}"


WORKLOADS = (
    Workload("q1", "queries", 1, 1),
    Workload("q32", "queries", 1, 32),
    Workload("q128", "queries", 1, 128),
    Workload("p32", "passages", 32, 4),
    Workload("p96", "passages", 96, 2),
)
BULK = WORKLOADS[-1]
MIX = "mix"


@dataclass(frozen=True, slots=True)
class Texts:
    """Queries and passages in a fixed random order, with the tokens of each if they were counted."""

    queries: tuple[str, ...]
    passages: tuple[str, ...]
    source: str
    tokens: dict[str, int]

    def requests(self, url: str, key: str, model: str, workload: Workload, round_: int) -> list[Request]:
        """Build the requests of a workload; each round starts elsewhere in the texts."""
        texts = self.queries if workload.kind == "queries" else self.passages
        start = round_ * 613 % len(texts)
        rotated = texts[start:] + texts[:start]
        counts = [self.tokens.get(text, 0) for text in rotated]
        return build(url, key, model, rotated, workload.per_request, tokens=counts)


def read(folder: Path | None) -> Texts:
    """Read queries.txt and passages.txt, one text a line; make up texts of like lengths where there is no folder."""
    chance = random.Random(0)
    if folder is None:
        queries = [_made_up(chance, 6, 14) for _ in range(4000)]
        passages = [_made_up(chance, 60, 190) for _ in range(2000)]
        return Texts(tuple(queries), tuple(passages), "made up of common words, as no --data was given", {})
    found = []
    for name in ("queries.txt", "passages.txt"):
        lines = (folder / name).read_text("utf-8").splitlines()
        texts = [line[:MAX_CHARS] for line in lines if line.strip()]
        chance.shuffle(texts)
        found.append(tuple(texts))
    return Texts(found[0], found[1], f"{len(found[0])} queries and {len(found[1])} passages from --data", {})


def _made_up(chance: random.Random, least: int, most: int) -> str:
    return " ".join(chance.choices(_COMMON_WORDS.split(), k=chance.randint(least, most)))[:MAX_CHARS]


@dataclass(frozen=True, slots=True)
class Mixed:
    """What the two clients of the mix saw."""

    bulk: Result
    interactive: Result


async def mix(url: str, bulk: Sequence[Request], queries: Sequence[Request], seconds: float) -> Mixed:
    """Run a bulk client that saturates the server, and one that sends a query, reads, pauses, and sends the next."""
    heavy = load(url, bulk, BULK.connections, seconds)
    light = load(url, queries, 1, seconds, pause=PAUSE)
    return Mixed(*await asyncio.gather(heavy, light))


def main() -> None:
    """Measure the bulk client alone and the mix, in turn, and print both."""
    parser = argparse.ArgumentParser(description="A bulk and an interactive client on a server that runs.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--data", type=Path, help="folder with queries.txt and passages.txt, one text a line")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    texts = read(args.data)
    for round_ in range(args.rounds):
        bulk, queries = (
            texts.requests(args.url, args.key, args.model, workload, round_)
            for workload in (BULK, WORKLOADS[0])
        )
        alone = uvloop.run(load(args.url, bulk, BULK.connections, args.seconds))
        both = uvloop.run(mix(args.url, bulk, queries, args.seconds))
        share = both.bulk.texts / alone.texts if alone.texts else float("nan")
        print(
            f"interactive p50 {both.interactive.percentile(0.5):.1f} ms  p99 {both.interactive.percentile(0.99):.1f} "
            f"ms of {len(both.interactive.latencies)}; bulk {both.bulk.texts_per_second:,.0f} passages/s, "
            f"{share:.2f} of its lone rate; failures {both.bulk.failures + both.interactive.failures}"
        )


if __name__ == "__main__":
    main()
