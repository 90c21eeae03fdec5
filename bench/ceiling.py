"""How near to the bare engine is the server? Tokens/s over HTTP beside the engine in a loop over ideal batches.

    python bench/ceiling.py --data DATA --precision bf16

Both in turn, in rounds, on the same texts; the one that is not measured is stopped by a signal. Ideal are batches of
texts sorted by length, of one bucket, of at most 512 tokens, on many narrow engine streams, or with OpenVINO on a wide
one, what is faster. Knows how the two are driven; the workloads are mix.py's, the server is baselines/servers.py's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import sys
import urllib.request
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

import mix
from baselines import servers
from baselines.servers import KEY, NAME, SERVERS, Running
from buckets import batches, rate
from buckets import read as read_tokens
from load import Result, load
from mix import WORKLOADS, Texts, Workload
from senryu import engine, models
from senryu.config import DEFAULT_MODEL, Paths
from senryu.engine import Engine
from senryu.engine.machine import native_precisions, usable_threads
from senryu.engine.openvino import OpenVinoEngine
from senryu.types import Precision, Tokens

BATCH_TOKENS = 512
BARS = {"q32": 0.7, "q128": 0.8, "p32": 0.9}
MEASURED = tuple(workload for workload in WORKLOADS if workload.id in BARS)
KINDS = ("queries", "passages")
WIDE, NARROW = "1 wide stream", "narrow streams"


# ---- the bare engine ---------------------------------------------------------------------------------------


class WideEngine(OpenVinoEngine):
    """The engine with one stream that all threads share, whatever it would choose itself."""

    @property
    def streams(self) -> int:
        """One."""
        return 1

    @streams.setter
    def streams(self, wanted: int) -> None:
        del wanted


def ways(spec: models.ModelSpec, precision: Precision, threads: int) -> Mapping[str, Engine]:
    """Return the engine that serves, in each way that it may take the threads; our own kernels know but one."""
    narrow = engine.load(spec, precision=precision, threads=threads)
    if narrow.name != OpenVinoEngine.name:
        return {NARROW: narrow}
    return {WIDE: WideEngine(spec, precision=precision, threads=threads), NARROW: narrow}


def bare(
    calls: Connection, folder: Path, precision: Precision, tokens: Mapping[str, Sequence[Tokens]]
) -> None:
    """Measure whatever is asked for, as (kind, streams, seconds), until None is; runs in a process of its own."""
    spec, threads = models.load_spec(folder), usable_threads()
    engines = ways(spec, precision, threads)
    calls.send(tuple(engines))
    plans = {
        kind: batches(engines[NARROW], sorted(texts, key=lambda one: len(one.ids)), BATCH_TOKENS)
        for kind, texts in tokens.items()
    }
    for kind, streams, seconds in iter(calls.recv, None):
        calls.send(rate(engines[streams], plans[kind], engines[streams].streams, seconds))


class BareEngine:
    """The child process with the engines; it runs only while it measures."""

    def __init__(self, folder: Path, precision: Precision, tokens: Mapping[str, Sequence[Tokens]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._calls, its_end = context.Pipe()
        self._process = context.Process(target=bare, args=(its_end, folder, precision, tokens), daemon=True)
        self._process.start()
        its_end.close()
        self.ways: tuple[str, ...] = self._calls.recv()
        self.measure("queries", NARROW, 0)

    def measure(self, kind: str, streams: str, seconds: float) -> float:
        """Return useful tokens/s over ideal batches of all texts of a kind."""
        self._signal(signal.SIGCONT)
        self._calls.send((kind, streams, seconds))
        found: float = self._calls.recv()
        self._signal(signal.SIGSTOP)
        return found

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def close(self) -> None:
        """End the process."""
        self._signal(signal.SIGCONT)
        self._process.kill()
        self._process.join()


# ---- the server --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Served:
    """What the load generator saw in one round, and what the server's counters grew by."""

    result: Result
    grown: dict[str, float]


def scraped(url: str) -> dict[str, float]:
    """Return the metrics without labels, by name."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        lines = [line.split(" ") for line in answer.read().decode().splitlines()]
    return {name: float(value) for name, value, *_ in lines if name.startswith("senryu_") and "{" not in name}


def served(running: Running, texts: Texts, workload: Workload, round_: int, seconds: float) -> Served:
    """Put a workload on the server, once, and note what its metrics say of it."""
    running.resume()
    requests = texts.requests(running.url, KEY, NAME, workload, round_)
    before = scraped(running.url)
    result = uvloop.run(load(running.url, requests, workload.connections, seconds))
    after = scraped(running.url)
    running.pause()
    return Served(result, {name: value - before[name] for name, value in after.items()})


# ---- rounds ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Run:
    """Everything measured, in rounds."""

    bare: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    served: dict[str, list[Served]] = field(default_factory=dict)

    def ideal(self, kind: str) -> tuple[str, list[float]]:
        """Return the faster way to run the bare engine, and its rates."""
        return max(
            ((streams, rates) for (its_kind, streams), rates in self.bare.items() if its_kind == kind),
            key=lambda found: statistics.median(found[1]),
        )

    def ratios(self, workload: Workload) -> list[float]:
        """Return the server's rate over the bare engine's, round by round."""
        _, ideal = self.ideal(workload.kind)
        rounds = zip(self.served[workload.id], ideal, strict=True)
        return [one.result.tokens_per_second / best for one, best in rounds]


def one_round(
    run: Run, child: BareEngine, running: Running, texts: Texts, round_: int, seconds: float
) -> None:
    """Measure either once on each kind of text; which goes first changes by round. One below 0 is not kept."""

    def alone(kind: str) -> None:
        for streams in child.ways:
            found = child.measure(kind, streams, seconds)
            say(f"  {kind}, bare engine, {streams}: {found:,.0f} tokens/s")
            if round_ >= 0:
                run.bare.setdefault((kind, streams), []).append(found)

    def over_http(kind: str) -> None:
        for workload in MEASURED:
            if workload.kind == kind:
                one = served(running, texts, workload, max(0, round_), seconds)
                say(f"  {workload.title}: {one.result.tokens_per_second:,.0f} tokens/s")
                if round_ >= 0:
                    run.served.setdefault(workload.id, []).append(one)

    for kind in KINDS:
        for measure in (alone, over_http) if round_ % 2 else (over_http, alone):
            measure(kind)


# ---- results -----------------------------------------------------------------------------------------------


def row(run: Run, workload: Workload) -> list[str]:
    """Return a line of the table."""
    streams, ideal = run.ideal(workload.kind)
    rounds, ratios = run.served[workload.id], run.ratios(workload)

    def grown(name: str) -> float:
        return sum(one.grown[f"senryu_{name}"] for one in rounds)

    made = grown("batch_texts_count")
    latencies = [one.result.percentile(0.5) for one in rounds]
    return [
        workload.title,
        f"{statistics.median(ideal):,.0f} ({streams})",
        f"{statistics.median(one.result.tokens_per_second for one in rounds):,.0f}",
        f"**{statistics.median(ratios):.3f}** ({min(ratios):.3f} to {max(ratios):.3f})",
        f"{BARS[workload.id]:.1f}",
        f"{statistics.median(latencies):.1f}",
        f"{grown('tokens_useful_total') / grown('tokens_computed_total'):.3f}",
        f"{grown('batch_texts_sum') / made:.1f}",
        f"{grown('tokens_useful_total') / made:.0f}",
        str(sum(one.result.failures for one in rounds)),
    ]


def table(run: Run) -> str:
    """Write the table."""
    head = [
        *("workload", "bare engine, tokens/s", "served, tokens/s", "ratio (least to most)", "bar", "p50 ms"),
        *("fill", "texts a batch", "tokens a batch", "failures"),
    ]
    lines = [head, ["---"] * len(head), *(row(run, workload) for workload in MEASURED)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def say(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)


# ---- command -----------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    native = [precision.value for precision in native_precisions()]
    parser = argparse.ArgumentParser(description="The server beside the bare engine, in interleaved rounds.")
    parser.add_argument(
        "--data", type=Path, help="folder with queries.txt and passages.txt; default: made up"
    )
    parser.add_argument("--model", type=Path, default=Paths.from_environ().models / DEFAULT_MODEL)
    parser.add_argument("--precision", choices=native, default=native[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement, at least")
    parser.add_argument(
        "--tokens", type=int, default=60_000, help="of each kind of text: the bare engine runs all of them"
    )
    given = parser.parse_args()
    if not (given.model / "tokenizer.json").exists():
        parser.error(f"{given.model} holds no model: run `senryu pull`, or name its folder with --model")
    return given


def chosen(texts: Texts, folder: Path, most: int) -> tuple[Texts, dict[str, list[Tokens]]]:
    """Keep as many texts of each kind as have so many tokens, and return their tokens by kind too."""
    spec = models.load_spec(folder)
    kept, tokens = {}, {}
    lengths: dict[str, int] = {}
    for kind in KINDS:
        every: tuple[str, ...] = getattr(texts, kind)
        found = read_tokens(spec, every)
        count = bisect_right(list(accumulate(len(one.ids) for one in found)), most)
        kept[kind], tokens[kind] = every[:count], found[:count]
        lengths.update((text, len(one.ids)) for text, one in zip(kept[kind], found, strict=False))
    return Texts(kept["queries"], kept["passages"], texts.source, lengths), tokens


def main() -> None:
    """Start both, warm up, measure, print."""
    given = arguments()
    texts, tokens = chosen(mix.read(given.data), given.model, given.tokens)
    run = Run()
    with ExitStack() as stack:
        child = BareEngine(given.model, Precision(given.precision), tokens)
        stack.callback(child.close)
        server = next(server for server in SERVERS if server.id == f"senryu-{given.precision}")
        running = servers.start(server, given.model, {})
        stack.callback(running.close)
        running.pause()
        for round_ in range(-1, given.rounds):
            say(f"round {round_ + 1} of {given.rounds}" if round_ >= 0 else "warming up")
            one_round(run, child, running, texts, round_, given.seconds)
    print(
        f"{given.precision}, {usable_threads()} threads, {given.rounds} rounds of {given.seconds:g} s, "
        f"{len(texts.queries)} queries and {len(texts.passages)} passages\n"
    )
    print(table(run))


if __name__ == "__main__":
    main()
