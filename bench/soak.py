"""Does the memory stay flat, and do the bits stay the same? The mix for ten minutes, the server watched meanwhile.

    python bench/soak.py --data DATA --precision bf16

A bulk client and an interactive one load the server; each second its memory is read, and every few seconds some of 50
probe texts are asked for among other texts. Ends with status 1 if one answer has other bits than at the start, or a
request fails. Knows /proc and how the plot is drawn; the texts are mix.py's, the server is baselines/servers.py's.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import uvloop

import mix
from baselines import servers
from baselines.install import ROOT
from baselines.servers import KEY, NAME, SERVERS, Running
from load import Result, load
from mix import PAUSE, WORKLOADS, Texts
from senryu.config import DEFAULT_MODEL, Paths
from senryu.engine.machine import native_precisions, processor_name

BULK = next(workload for workload in WORKLOADS if workload.id == "p32")
QUERY = WORKLOADS[0]
PROBES = 50
PROBES_AT_ONCE = 10  # in one request, among others
OTHERS = 40  # other texts in a request with probes, at most
PROBE_SECONDS = 3.0  # from one such request to the next
MOST_MB = 400
MARKS = (1, 2, 5, 10)  # minutes


# ---- memory ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process holds, in MB: all, and what is its own rather than a file's."""

    minutes: float
    resident: float
    anonymous: float


def memory(pid: int, minutes: float = 0) -> Memory:
    """Read a process's memory from /proc."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines())
    sizes = {line[0]: int(line[1]) / 1024 for line in lines if line[0] in ("VmRSS:", "RssAnon:")}
    return Memory(minutes, sizes["VmRSS:"], sizes["RssAnon:"])


async def watch(pid: int, samples: list[Memory], every: float = 1) -> None:
    """Read a process's memory into `samples` again and again, until cancelled."""
    began = time.perf_counter()
    while True:
        passed = time.perf_counter() - began
        samples.append(memory(pid, passed / 60))
        await asyncio.sleep(every - passed % every)


def slope(samples: Sequence[Memory]) -> float:
    """Return the growth of the memory in MB a minute: the least-squares line through the samples."""
    minutes = sum(sample.minutes for sample in samples) / len(samples)
    resident = sum(sample.resident for sample in samples) / len(samples)
    spread = sum((sample.minutes - minutes) ** 2 for sample in samples)
    return sum((one.minutes - minutes) * (one.resident - resident) for one in samples) / (spread or 1)


# ---- bits --------------------------------------------------------------------------------------------------


def bits(url: str, texts: Sequence[str], key: str = KEY) -> list[bytes]:
    """Return the vectors of some texts, as they are. Raises OSError if the answer is not 200."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
    body = json.dumps({"model": NAME, "input": list(texts), "encoding_format": "base64"})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/v1/embeddings", body, headers)
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"answers {response.status}: {answer[:200].decode(errors='replace')}")
    return [base64.b64decode(item["embedding"]) for item in json.loads(answer)["data"]]


@dataclass(slots=True)
class Probes:
    """Texts whose bits are known, and what became of them."""

    expected: dict[str, bytes]
    checked: int = 0
    different: int = 0
    failures: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, url: str, texts: Sequence[str]) -> Probes:
        """Ask for each text alone."""
        return cls({text: bits(url, [text])[0] for text in texts})

    def check(self, url: str, chance: random.Random, others: Sequence[str]) -> None:
        """Ask for some of the texts among others, in random order, and compare."""
        company = chance.sample(others, chance.randint(0, OTHERS))
        texts = [*chance.sample(list(self.expected), min(PROBES_AT_ONCE, len(self.expected))), *company]
        chance.shuffle(texts)
        try:
            found = bits(url, texts)
        except OSError as error:
            self.failures.append(str(error))
            return
        for text, vector in zip(texts, found, strict=True):
            if text in self.expected:
                self.checked += 1
                self.different += vector != self.expected[text]

    async def keep_checking(self, url: str, others: Sequence[str], seconds: float) -> None:
        """Check every few seconds, for so many seconds."""
        chance = random.Random(0)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            await asyncio.to_thread(self.check, url, chance, others)
            await asyncio.sleep(min(PROBE_SECONDS, max(0, until - time.perf_counter())))


# ---- the run -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Soaked:
    """All that was seen."""

    bulk: Result
    interactive: Result
    memory: list[Memory]
    probes: Probes

    @property
    def failures(self) -> int:
        """Requests that were not answered with 200."""
        return self.bulk.failures + self.interactive.failures + len(self.probes.failures)

    @property
    def second_half(self) -> list[Memory]:
        """The memory once everything has been allocated that will be."""
        return self.memory[len(self.memory) // 2 :]


async def soak(running: Running, texts: Texts, probes: Probes, seconds: float) -> Soaked:
    """Run the mix, and watch."""
    url = running.url
    bulk, queries = (texts.requests(url, KEY, NAME, workload, 0) for workload in (BULK, QUERY))
    samples: list[Memory] = []
    watching = asyncio.create_task(watch(running.process.pid, samples))
    heavy, light, _ = await asyncio.gather(
        load(url, bulk, BULK.connections, seconds),
        load(url, queries, 1, seconds, pause=PAUSE),
        probes.keep_checking(url, [*texts.queries, *texts.passages], seconds),
    )
    watching.cancel()
    return Soaked(heavy, light, [one for one in samples if one.minutes <= seconds / 60], probes)


def facts(found: Soaked, before: Memory) -> list[tuple[str, str]]:
    """Say what was seen, as pairs."""
    rows = [("memory at the start", f"{before.resident:.0f} MB ({before.anonymous:.0f} anonymous)")]
    for mark in MARKS:
        at = next((one for one in found.memory if one.minutes >= mark - 0.05), None)
        if at is not None:
            rows.append((f"after {mark} min", f"{at.resident:.0f} MB ({at.anonymous:.0f} anonymous)"))
    most = max(found.memory, key=lambda one: one.resident)
    probes = found.probes
    return [
        *rows,
        ("most", f"{most.resident:.0f} MB, after {most.minutes:.1f} min (bar: {MOST_MB})"),
        ("slope over the second half", f"{slope(found.second_half):+.2f} MB/min"),
        ("interactive p50", f"{found.interactive.percentile(0.5):.1f} ms"),
        (
            "interactive p99",
            f"{found.interactive.percentile(0.99):.1f} ms of {len(found.interactive.latencies)}",
        ),
        ("bulk", f"{found.bulk.texts_per_second:,.0f} passages/s"),
        ("probe texts with other bits", f"{probes.different} of {probes.checked}"),
        ("requests failed", f"{found.failures} {' '.join(probes.failures[:1])}".strip()),
    ]


# ---- plot --------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 72, 736, 112, 336  # of the area with the lines
STYLE = """
  svg { color-scheme: light dark; font: 12px system-ui, "Helvetica Neue", Arial, sans-serif; }
  .page { fill: #fcfcfb; } text { fill: #52514e; } .title { fill: #0b0b0b; font-size: 18px; font-weight: 600; }
  .grid { stroke: #e4e3df; } .base { stroke: #8f8e89; } .bar { stroke: #c2410c; stroke-dasharray: 6 4; }
  .right { text-anchor: end; } .middle { text-anchor: middle; } polyline, .key { fill: none; stroke-width: 2; }
  .m0 { stroke: #123f78; } .m1 { stroke: #6aa3dd; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #1a1a19; } text { fill: #c3c2b7; } .title { fill: #ffffff; }
    .grid { stroke: #33332f; } .base { stroke: #7c7b74; } .bar { stroke: #f08a4b; }
    .m0 { stroke: #c4defa; } .m1 { stroke: #3777b8; }
  }
"""


def as_svg(samples: Sequence[Memory], end: float, title: str, about: str) -> str:
    """Draw the memory over so many minutes under the line of the bar; light and dark."""
    top = 1.1 * max(MOST_MB, *(sample.resident for sample in samples))

    def line(values: Sequence[float], kind: str) -> str:
        points = (
            f"{LEFT + (RIGHT - LEFT) * sample.minutes / end:.1f},{_height(value, top):.1f}"
            for sample, value in zip(samples, values, strict=True)
        )
        return f'<polyline class="{kind}" points="{" ".join(points)}"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
        _text(24, 36, title, "title"),
        _text(24, 58, about),
        *_keys(),
        *_grid(top, end),
        _across("bar", _height(MOST_MB, top)),
        line([sample.anonymous for sample in samples], "m1"),
        line([sample.resident for sample in samples], "m0"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, content: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(content)}</text>'


def _height(megabytes: float, top: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * megabytes / top


def _across(kind: str, y: float) -> str:
    return f'<line class="{kind}" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _keys() -> list[str]:
    parts = []
    for x, kind, meaning in (
        (24, "m0", "resident"),
        (134, "m1", "anonymous: its own, no file's"),
        (354, "bar", "bar"),
    ):
        parts.append(f'<line class="{kind} key" x1="{x}" x2="{x + 26}" y1="84" y2="84"/>')
        parts.append(_text(x + 34, 88, meaning))
    return parts


def _grid(top: float, end: float) -> list[str]:
    parts = []
    for megabytes in range(0, int(top) + 1, 100 * (1 + int(top) // 700)):
        y = _height(megabytes, top)
        parts += [
            _across("grid" if megabytes else "base", y),
            _text(LEFT - 10, y + 4, f"{megabytes} MB", "right"),
        ]
    for part in range(6):
        x = LEFT + (RIGHT - LEFT) * part / 5
        parts.append(_text(x, BOTTOM + 20, f"{end * part / 5:.3g}", "middle"))
    return [*parts, _text((LEFT + RIGHT) / 2, BOTTOM + 42, "minutes", "middle")]


# ---- command -----------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    native = [precision.value for precision in native_precisions()]
    parser = argparse.ArgumentParser(description="The mix for minutes; memory and bits are watched.")
    parser.add_argument(
        "--data", type=Path, help="folder with queries.txt and passages.txt; default: made up"
    )
    parser.add_argument("--model", type=Path, default=Paths.from_environ().models / DEFAULT_MODEL)
    parser.add_argument("--precision", choices=native, default=native[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--output", type=Path, help="default: bench/soak-PRECISION.svg")
    given = parser.parse_args()
    given.output = given.output or ROOT / "bench" / f"soak-{given.precision}.svg"
    if not (given.model / "tokenizer.json").exists():
        parser.error(f"{given.model} holds no model: run `senryu pull`, or name its folder with --model")
    return given


def main() -> None:
    """Start the server, load and watch it, print, draw."""
    given = arguments()
    texts = mix.read(given.data)
    server = next(server for server in SERVERS if server.id == f"senryu-{given.precision}")
    running = servers.start(server, given.model, {})
    try:
        probes = Probes.of(running.url, [*texts.queries[: PROBES // 2], *texts.passages[: PROBES // 2]])
        before = memory(running.process.pid)
        found = uvloop.run(soak(running, texts, probes, given.minutes * 60))
    finally:
        running.close()
    print(f"{server.title}, {given.minutes:g} min of the mix ({BULK.title}; and one interactive client)\n")
    print("| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in facts(found, before)))
    title = f"Senryu {given.precision}: memory under the mix"
    about = f"{processor_name()}; in the second half {slope(found.second_half):+.2f} MB/min"
    given.output.write_text(as_svg(found.memory, given.minutes, title, about), "utf-8")
    if found.probes.different or not found.probes.checked or found.failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
