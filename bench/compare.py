"""Senryu beside what else there is, in one run: interleaved rounds, medians, ratios; writes bench/RESULTS.md.

    make bench ARGS="--data DATA"        python bench/compare.py --servers senryu-bf16 infinity --workloads q32 mix

All servers are started and all but the one under load are stopped by a signal. One whose vectors differ from ours is
left out, and so is one that cannot be had; the results say why. Knows the order of things and the tables; how to
load a server is load.py's and mix.py's, what there is to compare is baselines/servers.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import uvloop

import mix
from baselines import servers
from baselines.install import ROOT, Unavailable
from baselines.servers import AVX2_SERVERS, KEY, NAME, SERVERS, Running, Server
from load import Result, load, percentile
from mix import BULK, MIX, WORKLOADS, Mixed, Texts, Workload
from senryu import models
from senryu.config import DEFAULT_MODEL, Paths
from senryu.engine.machine import processor_name, usable_threads
from senryu.tokenizer import Tokenizer
from senryu.types import Task, Truncate


@dataclass(slots=True)
class Run:
    """Everything measured so far, by server and workload, in rounds."""

    servers: list[Server]
    workloads: list[Workload]
    with_mix: bool
    results: dict[tuple[str, str], list[Result]] = field(default_factory=dict)
    mixed: dict[str, list[Mixed]] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    resident: dict[str, float] = field(default_factory=dict)
    cosines: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def measured(self) -> list[Server]:
        """Return the servers that took part, in the table's order."""
        return [server for server in self.servers if server.id not in self.missing]


# ---- measuring ---------------------------------------------------------------------------------------------


def start_all(run: Run, model: Path, extra: dict[str, str], stack: ExitStack) -> dict[str, Running]:
    """Start every server, pause it, and note those that cannot be had."""
    started = {}
    for server in run.servers:
        say(f"starting {server.title}")
        try:
            running = servers.start(server, model, extra)
        except Unavailable as reason:
            run.missing[server.id] = str(reason)
            say(f"  left out: {reason}")
            continue
        stack.callback(running.close)
        run.started[server.id] = running.start_seconds
        started[server.id] = running
        running.pause()
    return started


@contextlib.contextmanager
def awake(running: Running) -> Iterator[Running]:
    """Let one server go on for as long as it is needed."""
    running.resume()
    try:
        yield running
    finally:
        running.pause()


def check_vectors(run: Run, started: dict[str, Running], texts: Texts) -> None:
    """Leave out who computes something else: the least cosine over 20 texts with the first server's vectors."""
    # NOTE: longer ones are cut at another length, or not at all, by servers that do not read the model's own.
    longest = max(texts.tokens.values())
    whole = [text for text in texts.passages if texts.tokens[text] < longest]
    sample = [*texts.queries[:10], *whole[:10]]
    ours: np.ndarray | None = None
    for id_, running in list(started.items()):
        with awake(running):
            rows = np.array(servers.ask(running.url, sample), np.float64)  # [20, D]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        ours = rows if ours is None else ours
        run.cosines[id_] = float((rows * ours).sum(axis=1).min())
        if not run.cosines[id_] > running.server.least_cosine:
            run.missing[id_] = f"computes something else: cosine {run.cosines[id_]:.4f} with ours"
            del started[id_]
    say("least cosines: " + ", ".join(f"{id_} {cosine:.5f}" for id_, cosine in run.cosines.items()))


def measure(run: Run, running: Running, texts: Texts, round_: int, seconds: float) -> None:
    """Put every workload on one server, once; a round below 0 warms up and is not kept."""
    id_, url = running.server.id, running.url
    for workload in run.workloads:
        requests = texts.requests(url, KEY, NAME, workload, round_)
        result = uvloop.run(load(url, requests, workload.connections, seconds))
        if round_ >= 0:
            run.results.setdefault((id_, workload.id), []).append(result)
            say(
                f"  {id_} {workload.id}: {result.texts_per_second:,.0f} texts/s, p50 {result.percentile(0.5):.1f} ms"
            )
    if run.with_mix:
        bulk = texts.requests(url, KEY, NAME, BULK, round_)
        queries = texts.requests(url, KEY, NAME, WORKLOADS[0], round_)
        both = uvloop.run(mix.mix(url, bulk, queries, 2 * seconds))
        if round_ >= 0:
            run.mixed.setdefault(id_, []).append(both)
            say(
                f"  {id_} mix: p50 {both.interactive.percentile(0.5):.1f} ms, {both.bulk.texts_per_second:,.0f} texts/s"
            )
    run.resident[id_] = running.resident_mb()


def one_round(run: Run, started: dict[str, Running], texts: Texts, round_: int, seconds: float) -> None:
    """Put every workload on every server, the servers in another order each round."""
    order = list(started)
    random.Random(round_).shuffle(order)
    for id_ in order:
        try:
            with awake(started[id_]) as running:
                measure(run, running, texts, round_, seconds)
        except (OSError, TimeoutError, AssertionError) as error:
            run.missing[id_] = f"failed under load: {type(error).__name__}: {error}"
            started.pop(id_).close()
            say(f"  {id_} {run.missing[id_]}")


# ---- results -----------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Write a median with the least and the most."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def workload_table(run: Run, workload: Workload) -> str:
    """Tabulate one workload: rates are medians over rounds, latencies are over all rounds' answers."""
    rows = []
    for server in run.measured():
        results = run.results[server.id, workload.id]
        latencies = [seconds for result in results for seconds in result.latencies]
        rows.append(
            [
                server.title,
                spread([result.texts_per_second for result in results]),
                f"{statistics.median(result.tokens_per_second for result in results):,.0f}",
                f"{percentile(latencies, 0.5):,.1f}",
                f"{percentile(latencies, 0.99):,.1f}",
                str(sum(result.failures for result in results)),
            ]
        )
    head = ["server", "texts/s (least to most)", "useful tokens/s", "p50 ms", "p99 ms", "failures"]
    return table(head, rows)


def mix_table(run: Run) -> str:
    """Tabulate the mix."""
    rows = []
    for server in run.measured():
        both = run.mixed[server.id]
        latencies = [seconds for one in both for seconds in one.interactive.latencies]
        alone = run.results[server.id, BULK.id]
        shares = [
            one.bulk.texts_per_second / lone.texts_per_second for one, lone in zip(both, alone, strict=True)
        ]
        rows.append(
            [
                server.title,
                f"{percentile(latencies, 0.5):,.1f}",
                f"{percentile(latencies, 0.99):,.1f}",
                str(len(latencies)),
                spread([one.bulk.texts_per_second for one in both]),
                f"{statistics.median(shares):.2f}",
                str(sum(one.bulk.failures + one.interactive.failures for one in both)),
            ]
        )
    head = ["server", "interactive p50 ms", "p99 ms", "of", "bulk passages/s", "of its lone rate", "failures"]
    return table(head, rows)


def ratio_table(run: Run, ours: Server) -> str:
    """Tabulate how many times each other server's rate ours is: the median over rounds of the ratio in a round.

    There is none to a server that failed requests: what it answered says nothing of its rate.
    """
    rows = []
    for other in run.measured():
        if other.id == ours.id:
            continue
        cells = []
        for workload in run.workloads:
            rounds = run.results[ours.id, workload.id], run.results[other.id, workload.id]
            failures = sum(result.failures for results in rounds for result in results)
            ratios = [
                mine.texts_per_second / max(its.texts_per_second, 1e-9)
                for mine, its in zip(*rounds, strict=True)
            ]
            cells.append(f"{failures} failed" if failures else f"{statistics.median(ratios):.2f} ×")
        rows.append([other.title, *cells])
    return table([f"{ours.title} against", *(workload.title for workload in run.workloads)], rows)


def server_table(run: Run) -> str:
    """Tabulate the servers themselves."""
    rows = [
        [
            server.title,
            f"{run.cosines[server.id]:.5f}",
            f"{run.started[server.id]:.1f}",
            f"{run.resident.get(server.id, 0):,.0f}",
            server.versions(),
            f"`{server.shown()}`",
        ]
        for server in run.measured()
    ]
    head = ["server", "cosine with ours", "s to first answer", "resident MB after", "versions", "command"]
    return table(head, rows)


def results(run: Run, about: Sequence[tuple[str, str]]) -> str:
    """Write the whole document."""
    parts = [
        "# Results\n\nWritten by `make bench`; not edited by hand. What is measured and how: bench/README.md.",
        table(["", ""], [list(pair) for pair in about]),
        "## Ratios of texts/s",
        *(ratio_table(run, ours) for ours in run.measured() if not ours.environment),
        *(
            f"## {workload.title[0].upper()}{workload.title[1:]}\n\n{workload_table(run, workload)}"
            for workload in run.workloads
        ),
    ]
    if run.with_mix:
        title = f"## The mix: a bulk client ({BULK.title}) and one interactive client"
        parts.append(f"{title}\n\n{mix_table(run)}")
    parts.append(f"## Servers\n\n{server_table(run)}")
    titles = {server.id: server.title for server in run.servers}
    if run.missing:
        lines = (f"- {titles[id_]}: {reason}." for id_, reason in run.missing.items())
        parts.append("## Not measured\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def machine(given: argparse.Namespace, texts: Texts) -> list[tuple[str, str]]:
    """Describe the machine and the run."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return [
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("commit", described or "not a checkout"),
        ("processor", f"{processor_name()}, {usable_threads()} usable"),
        ("memory", f"{pages / 2**30:.0f} GiB"),
        ("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
        ("load average before", f"{os.getloadavg()[0]:.2f} (a quiet machine: near 0)"),
        ("environment set for all", ", ".join(given.env) or "nothing"),
        *([("hidden from all", "AVX-512, VNNI, bf16 (bench/README.md says how)")] * given.avx2),
        ("texts", texts.source),
        ("rounds", f"{given.rounds} of {given.seconds:g} s a workload, {2 * given.seconds:g} s for the mix"),
    ]


# ---- command -----------------------------------------------------------------------------------------------


def counted(texts: Texts, model: Path) -> Texts:
    """Add how many tokens the model reads of each text."""
    tokenizer = Tokenizer(models.load_spec(model))
    every = [*texts.queries, *texts.passages]
    found = tokenizer.encode_now(every, Task.SEARCH_DOCUMENT, Truncate.END)
    tokenizer.close()
    texts.tokens.update({text: len(tokens.ids) for text, tokens in zip(every, found, strict=True)})
    return texts


def arguments() -> argparse.Namespace:
    """Read the command line."""
    names = [server.id for server in SERVERS]
    loads = [*(workload.id for workload in WORKLOADS), MIX]
    parser = argparse.ArgumentParser(description="Senryu beside other servers, in interleaved rounds.")
    parser.add_argument(
        "--data", type=Path, help="folder with queries.txt and passages.txt; default: made-up texts"
    )
    parser.add_argument("--model", type=Path, default=Paths.from_environ().models / DEFAULT_MODEL)
    parser.add_argument(
        "--servers", nargs="+", choices=names, default=names, metavar="SERVER", help=", ".join(names)
    )
    parser.add_argument("--avx2", action="store_true", help="hide AVX-512 from all; writes RESULTS-avx2.md")
    parser.add_argument(
        "--workloads", nargs="+", choices=loads, default=loads, metavar="LOAD", help=", ".join(loads)
    )
    parser.add_argument(
        "--seconds", type=float, default=3, help="of one workload in one round; the mix takes twice it"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--warm-up", type=float, default=2, help="seconds of each workload before the first round"
    )
    parser.add_argument("--env", nargs="+", default=[], metavar="NAME=VALUE", help="set for every server")
    parser.add_argument("--output", type=Path, help="instead of bench/RESULTS.md")
    given = parser.parse_args()
    given.output = given.output or ROOT / "bench" / f"RESULTS{'-avx2' * given.avx2}.md"
    if not (given.model / "tokenizer.json").exists():
        parser.error(f"{given.model} holds no model: run `senryu pull`, or name its folder with --model")
    return given


def main() -> None:
    """Start, check, warm up, measure; the results are written anew after each round."""
    given = arguments()
    chosen = [workload for workload in WORKLOADS if workload.id in given.workloads]
    if MIX in given.workloads and BULK not in chosen:
        chosen.append(BULK)  # its lone rate is what the mix is compared with
    known = AVX2_SERVERS if given.avx2 else SERVERS
    run = Run([s for s in known if s.id in given.servers], chosen, MIX in given.workloads)
    texts = counted(mix.read(given.data), given.model)
    about = machine(given, texts)
    extra = dict(pair.split("=", 1) for pair in given.env)
    began = time.perf_counter()
    with ExitStack() as stack:
        started = start_all(run, given.model, extra, stack)
        check_vectors(run, started, texts)
        say("warming up")
        one_round(run, started, texts, -1, given.warm_up)
        for round_ in range(given.rounds):
            say(f"round {round_ + 1} of {given.rounds}")
            one_round(run, started, texts, round_, given.seconds)
            minutes = (time.perf_counter() - began) / 60
            given.output.write_text(results(run, [*about, ("took", f"{minutes:.0f} minutes")]), "utf-8")
    print(given.output.read_text("utf-8"))


def say(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
