"""One model, measured: our engine in each precision, PyTorch in each of its own, and matrix products alone, in turn.

Who is not measured is stopped by a signal or waits. Knows the order of things; what the model is, and the texts, are
random_models.py's, how PyTorch runs them baselines/transformer.py's.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

import random_models
from baselines import install
from baselines.install import OFFLINE
from random_models import CALIBRATION, PLANS, RandomModel, as_batch, plan, texts
from senryu import engine
from senryu.bench import either_way, flops_per_token, linear_shapes
from senryu.engine import Engine
from senryu.engine.calibration import calibrate
from senryu.engine.int8 import FILE
from senryu.engine.machine import multiplies_int8, native_precisions
from senryu.engine.peak import matrix_products
from senryu.models import ModelSpec, load_spec
from senryu.types import Ids, Precision

OURS, TORCH = "Senryu", "PyTorch"
LEAST_COSINE = 0.9999  # with PyTorch's vectors, both in f32
LEAST_ROUNDS, MOST_ROUNDS = 3, 15
LEAST_SECONDS = 0.3  # of passes over a plan

# What others may take of the processors while something is measured. NOTE: PyTorch's threads wait for each other in a
# loop: beside a busy neighbour it is ten times slower, and our engine only twice.
QUIET, SAMPLE_SECONDS = 0.1, 0.5

T = TypeVar("T")
Contender = tuple[str, Precision]  # a side, and the precision that it computes in


@dataclass(frozen=True, slots=True)
class How:
    """How to measure: the threads of each side, the seconds of a model's rounds, and those to wait for others.

    `clock` names a function of `time`. NOTE: by process_time a neighbour costs nothing, but neither do threads that
    wait for each other: it is for one thread.
    """

    threads: int
    seconds: float
    patience: float
    clock: str = "perf_counter"


@dataclass(slots=True)
class Found:
    """Tokens/s of each contender at each plan, a round after the other; and what the linear layers alone allow."""

    model: str
    flops_per_token: int
    cosine: float = 0.0  # the least, in f32
    others: list[float] = field(
        default_factory=list
    )  # what others took of the processors, a share a measurement
    peaks: dict[Precision, list[float]] = field(default_factory=dict)
    rates: dict[tuple[Contender, str], list[float]] = field(default_factory=dict)

    def rate(self, contender: Contender, name: str) -> float:
        """Return the median over rounds."""
        return statistics.median(self.rates[contender, name])

    def share(self, contender: Contender, name: str) -> float:
        """Return the rate over what its linear layers alone would allow, as matrix products run here."""
        pairs = zip(self.rates[contender, name], self.peaks[contender[1]], strict=True)
        return statistics.median(mine / peak for mine, peak in pairs)

    def ratio(self, one: Contender, other: Contender, name: str) -> float:
        """Return how many times the other's rate the one's is: the median over rounds of the ratio in a round."""
        pairs = zip(self.rates[one, name], self.rates[other, name], strict=True)
        return statistics.median(mine / its for mine, its in pairs)


def precisions() -> dict[str, tuple[Precision, ...]]:
    """Return what each side is measured in: the processor's own formats."""
    native = tuple(reversed(native_precisions()))
    return {OURS: (*native, *([Precision.INT8] if multiplies_int8() else [])), TORCH: native}


# ---- contenders --------------------------------------------------------------------------------------------


class Torch:
    """PyTorch in a process of its own; it runs only while it measures."""

    def __init__(self, folder: Path, python: Path, how: How) -> None:
        self._clock = how.clock
        command = [str(python), "-m", "baselines.transformer", "run", str(folder)]
        command += ["--threads", str(how.threads)]
        self._process = subprocess.Popen(
            command,
            cwd=install.HERE.parent,
            env={**os.environ, **OFFLINE},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, precision: Precision, batches: Sequence[Sequence[Ids]], seconds: float
    ) -> tuple[float, NDArray[np.float64]]:
        """Return tokens/s over passes through the batches for at least so long, and the pooled vectors."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {
            "precision": precision,
            "batches": [[ids.tolist() for ids in together] for together in batches],
            "seconds": seconds,
            "clock": self._clock,
        }
        self._process.send_signal(signal.SIGCONT)
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answered = json.loads(self._process.stdout.readline())
        self._process.send_signal(signal.SIGSTOP)
        tokens = sum(len(ids) for together in batches for ids in together)
        return tokens / answered["seconds"], np.array(answered["vectors"])

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


class Products:
    """Matrix products at the shapes of a model's linear layers and nothing else, as `senryu bench` weighs them."""

    def __init__(self, shapes: Sequence[tuple[int, int]], precision: Precision, how: How) -> None:
        self._how = how
        self._work = Counter[tuple[int, int]]()
        for shape in shapes:
            self._work[either_way(shape)] += flops_per_token([shape])
        self._runs = {
            shape: list(matrix_products(*shape, precision=precision, threads=how.threads))
            for shape in self._work
        }

    def rate(self) -> float:
        """Measure, and return the tokens/s of a model that had nothing but its linear layers."""
        return 1 / sum(work / self._fastest(shape) for shape, work in self._work.items())

    def _fastest(self, shape: tuple[int, int]) -> float:
        return max(
            each.streams
            * each.flops
            / pass_seconds([each.run] * each.streams, each.streams, self._how.clock, 0.1)
            for each in self._runs[shape]
        )


def pass_seconds(
    runs: Sequence[Callable[[], object]], callers: int, clock_name: str, at_least: float
) -> float:
    """Return the seconds of a pass over the runs by several callers, in the mean over passes for at least so long."""
    clock: Callable[[], float] = getattr(time, clock_name)
    with ThreadPoolExecutor(callers) as threads:
        passes, began = 0, clock()
        while not passes or clock() - began < at_least:
            waiting = iter(runs)  # shared: each caller takes the next one
            list(threads.map(_run_all, [waiting] * callers))
            passes += 1
        return (clock() - began) / passes


def _run_all(waiting: Iterator[Callable[[], object]]) -> None:
    for run in waiting:
        run()


# ---- rounds ------------------------------------------------------------------------------------------------


def measure(model: RandomModel, parent: Path, python: Path, how: How) -> Found:
    """Make a model, load it into everyone, and let them take turns. Run in a process of its own."""
    say(f"{model.id}: making")
    folder = random_models.write(model, parent, python)
    spec = load_spec(folder)
    shapes = linear_shapes(spec)
    found = Found(model.id, flops_per_token(shapes))
    with ExitStack() as stack:
        torch = stack.enter_context(closing(Torch(folder, python, how)))
        engines = _engines(spec, model, how.threads, stack)
        found.cosine = _compare(model, engines[Precision.F32], torch)
        peaks = {p: Products(shapes, p, how) for p in precisions()[TORCH]}
        _rounds(found, model, engines, torch, peaks, how)
    return found


def _engines(
    spec: ModelSpec, model: RandomModel, threads: int, stack: ExitStack
) -> Mapping[Precision, Engine]:
    if multiplies_int8():
        say("  calibrating")
        calibration = calibrate(spec, texts(model, CALIBRATION), threads)
        (spec.folder / FILE).write_text(calibration.dumps(), "utf-8")
    engines = {}
    for precision in precisions()[OURS]:
        engines[precision] = engine.load(spec, precision=precision, threads=threads)
        stack.callback(engines[precision].close)
    return engines


def _compare(model: RandomModel, ours: Engine, torch: Torch) -> float:
    """Return the least cosine of our vectors with PyTorch's. Raises SystemExit if they compute something else."""
    batches = plan(model, "passages")
    mine = np.concatenate([ours.run(as_batch(together)) for together in batches]).astype(np.float64)
    _, its = torch.run(Precision.F32, batches, 0)
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (mine, its)]
    cosine = float((units[0] * units[1]).sum(axis=1).min())
    if not cosine > LEAST_COSINE:
        raise SystemExit(f"{model.id}: PyTorch computes something else: cosine {cosine:.5f}")
    return cosine


def _rounds(
    found: Found,
    model: RandomModel,
    engines: Mapping[Precision, Engine],
    torch: Torch,
    peaks: Mapping[Precision, Products],
    how: How,
) -> None:
    plans = {name: plan(model, name) for name in PLANS}

    def rate(contender: Contender, name: str, at_least: float) -> float:
        side, precision = contender
        if side == TORCH:
            return torch.run(precision, plans[name], at_least)[0]
        ours = engines[precision]
        runs = [partial(ours.run, as_batch(together)) for together in plans[name]]
        tokens = sum(map(sum, PLANS[name]))
        return tokens / pass_seconds(runs, ours.streams, how.clock, at_least)

    trials = [((side, p), name) for side, each in precisions().items() for p in each for name in plans]
    for contender, name in trials:
        rate(contender, name, 0)  # the first one of a shape compiles its kernels
    quiet = Quiet(torch, how.patience)
    began, rounds = time.perf_counter(), 0
    while rounds < LEAST_ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - began < how.seconds):
        random.Random(rounds).shuffle(trials)
        for contender, name in trials:
            measured = quiet.measure(partial(rate, contender, name, LEAST_SECONDS))
            found.rates.setdefault((contender, name), []).append(measured)
        for precision, products in peaks.items():
            found.peaks.setdefault(precision, []).append(quiet.measure(products.rate))
        rounds += 1
        say(
            f"  round {rounds}, {time.perf_counter() - began:.0f} s; others {statistics.median(quiet.others):.0%}"
        )
    found.others = quiet.others


# ---- quiet -------------------------------------------------------------------------------------------------


class Quiet:
    """Measures while others leave the processors alone; waits for that, so many seconds in all."""

    def __init__(self, torch: Torch, patience: float) -> None:
        self._torch = torch
        self._until = time.perf_counter() + patience
        self.others: list[float] = []  # a share of the processors' time for each measurement

    def measure(self, trial: Callable[[], float]) -> float:
        """Return what a trial finds: the first that was left alone, or else the quietest."""
        tries: list[tuple[float, float]] = []
        while not tries or (min(tries)[0] > QUIET and self._is_patient()):
            while self._is_patient() and self._beside(lambda: time.sleep(SAMPLE_SECONDS))[0] > QUIET:
                pass
            tries.append(self._beside(trial))
        others, found = min(tries)
        self.others.append(others)
        return found

    def _is_patient(self) -> bool:
        return time.perf_counter() < self._until

    def _beside(self, trial: Callable[[], T]) -> tuple[float, T]:
        """Return what others took of the processors during a trial, a share, and what it found."""
        before = _ticks(self._torch.pid)
        found = trial()
        whole, others = (after - was for after, was in zip(_ticks(self._torch.pid), before, strict=True))
        return others / max(whole, 1), found


def _ticks(pid: int) -> tuple[int, int]:
    """Return the processors' time so far, and what of it neither idled nor was this process's or that one's."""
    line, _, _ = Path("/proc/stat").read_text().partition("\n")
    user, nice, system, idle, waiting, *rest = map(int, line.split()[1:9])
    busy = user + nice + system + sum(rest)  # with what a virtual machine's host took
    own = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:13] for each in ("self", pid)]
    return busy + idle + waiting, busy - sum(int(part) for parts in own for part in parts)


def say(line: str) -> None:
    """Tell on standard error what is going on."""
    print(line, file=sys.stderr, flush=True)
