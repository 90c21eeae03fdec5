"""How fast one engine is on this machine, beside what the machine's matrix products allow; and a lone query's way.

Measures what it is handed and shows nothing. Every quantity is measured in every round, so that a machine that is
slow for a while is slow for all of them; what is reported are medians over rounds. docs/bench.md explains the figures.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Protocol

import numpy as np

from senryu import outputs
from senryu.dialects import heroku
from senryu.engine import Engine, batch_of
from senryu.engine.machine import processor_name
from senryu.engine.model import Model
from senryu.engine.peak import matrix_products
from senryu.engine.weights import Weights
from senryu.errors import ModelError
from senryu.models import ModelSpec
from senryu.tokenizer import Tokenizer
from senryu.types import Batch, EmbedRequest, EmbedResult, OutputType, Precision

LENGTHS = (16, 32, 64, 128, 256)  # tokens, special ones included
BATCHES = (1, 4, 16, 32)  # texts
QUERY = "Why does the frog jump into the old pond when it rains?"
QUERY_OUTPUT_TYPES = (OutputType.FLOAT, OutputType.INT8)

SLOT_SECONDS = 0.04  # that a rate is measured for at a time, or for one run if that takes longer
QUERY_SECONDS = 0.06  # that lone queries are asked for at a time, one after the other


@dataclass(frozen=True, slots=True)
class Product:
    """Linear layers of one shape, either way round: their work, and the machine's rate at it."""

    shape: tuple[int, int]
    flops_per_token: int
    flops_per_second: float


@dataclass(frozen=True, slots=True)
class Peak:
    """The machine's rate at all linear layers of the model and nothing else."""

    flops_per_second: float
    tokens_per_second: float
    variation: (
        float  # interquartile range over median, of the shape that varied most: how restless the machine was
    )
    products: tuple[Product, ...]


@dataclass(frozen=True, slots=True)
class Throughput:
    """The engine's rate at texts of one length in batches of one size."""

    length: int
    batch: int
    tokens_per_second: float
    share_of_peak: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from a lone query's text to its answer's bytes, without HTTP."""

    output_type: OutputType
    p50_seconds: float
    p99_seconds: float
    queries: int


@dataclass(frozen=True, slots=True)
class Report:
    """All that was measured, and on what."""

    model: str
    engine: str
    precision: Precision
    processor: str
    threads: int
    streams: int
    flops_per_token: int
    peak: Peak
    throughput: tuple[Throughput, ...]
    query_tokens: int
    latency: tuple[Latency, ...]
    seconds: float


def run(spec: ModelSpec, engine: Engine, tokenizer: Tokenizer, *, threads: int, seconds: float) -> Report:
    """Measure for about `seconds`, and longer where one round of all takes longer."""
    began = time.perf_counter()
    shapes = linear_shapes(spec)
    with ThreadPoolExecutor(max(engine.streams, threads)) as callers:
        cells = _cells(spec, engine, callers)
        products = _products(shapes, engine.precision, threads, callers)
        queries = [LoneQuery(spec, engine, tokenizer, output_type) for output_type in QUERY_OUTPUT_TYPES]
        in_rounds(_order(cells, [*(each for ways in products.values() for each in ways), *queries]), seconds)
    peak = _peak(shapes, {shape: max(ways, key=lambda each: each.rate) for shape, ways in products.items()})
    return Report(
        model=spec.id,
        engine=engine.name,
        precision=engine.precision,
        processor=processor_name(),
        threads=threads,
        streams=engine.streams,
        flops_per_token=flops_per_token(shapes),
        peak=peak,
        throughput=tuple(_throughput(length, batch, cell, peak) for (length, batch), cell in cells.items()),
        query_tokens=queries[0].tokens,
        latency=tuple(query.latency() for query in queries),
        seconds=time.perf_counter() - began,
    )


# ---- work ---------------------------------------------------------------------------------------------------


class LinearLayers:
    """`Ops` that computes nothing and notes the shape [outputs, inputs] of every linear layer's weight."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.shapes: list[tuple[int, int]] = []

    def linear(self, name: str, x: None, *, bias: bool = True, part: tuple[int, int] = (0, 1)) -> None:
        outputs, inputs = self._weights.shape(f"{name}.weight")
        self.shapes.append((outputs // part[1], inputs))

    def __getattr__(self, operation: str) -> Callable[..., None]:
        return lambda *args, **keywords: None


def linear_shapes(spec: ModelSpec) -> list[tuple[int, int]]:
    """Return [outputs, inputs] of each linear layer that a token passes, as the encoder's description has them."""
    model = Model(spec)
    layers = LinearLayers(model.weights)
    model.encoder.forward(layers)
    return layers.shapes


def flops_per_token(shapes: Iterable[tuple[int, int]]) -> int:
    """Count a multiplication and an addition for each weight of the linear layers; attention's own are left out."""
    return sum(2 * outputs * inputs for outputs, inputs in shapes)


# ---- measuring ----------------------------------------------------------------------------------------------


class Trial(Protocol):
    """Something that is measured again and again."""

    def measure(self) -> None: ...


def in_rounds(trials: Sequence[Trial], seconds: float) -> None:
    """Measure all trials in turn until the time is over, each of them at least once."""
    deadline = time.perf_counter() + seconds
    for trial in trials:
        trial.measure()
    while trials:
        for trial in trials:
            if not time.perf_counter() < deadline:
                return
            trial.measure()


class Rate:
    """Work a second of runs that several callers repeat side by side."""

    def __init__(self, run: Callable[[], object], work: int, callers: int, threads: Executor) -> None:
        """`work` is that of one run."""
        self._run = run
        self._work = work
        self._callers = callers
        self._threads = threads
        self._rates: list[float] = []

    def measure(self) -> None:
        """Take one rate; the first time after a slot to warm up, unless that held one long run."""
        if not self._rates:
            began = time.perf_counter()
            rate = self._slot()
            if time.perf_counter() - began > 2 * SLOT_SECONDS:
                self._rates.append(rate)
                return
        self._rates.append(self._slot())

    def _slot(self) -> float:
        deadline = time.perf_counter() + SLOT_SECONDS
        return sum(self._threads.map(self._repeat, [deadline] * self._callers))

    def _repeat(self, deadline: float) -> float:
        began = now = time.perf_counter()
        runs = 0
        while not runs or now < deadline:
            self._run()
            runs += 1
            now = time.perf_counter()
        return self._work * runs / (now - began)

    @property
    def rounds(self) -> int:
        return len(self._rates)

    @property
    def rate(self) -> float:
        """The median."""
        return median(self._rates)

    @property
    def variation(self) -> float:
        """The interquartile range, over the median."""
        low, high = np.percentile(self._rates, (25, 75))
        return float(high - low) / self.rate


class LoneQuery:
    """One query at a time through every stage but HTTP and the queue."""

    def __init__(
        self, spec: ModelSpec, engine: Engine, tokenizer: Tokenizer, output_type: OutputType
    ) -> None:
        request = EmbedRequest(spec.id, (QUERY,), output_types=(output_type,))
        self._call = heroku.Call(request, heroku.Encoding.RAW)
        self._engine = engine
        self._tokenizer = tokenizer
        self._seconds: list[float] = []
        self.tokens = len(self._tokenize().input_ids)
        self.answer()  # the first one of a shape compiles its kernels

    def answer(self) -> bytes:
        """Return the body that a client would read."""
        request = self._call.request
        batch = self._tokenize()
        embeddings = outputs.codes(self._engine.run(batch), request.output_types)
        result = EmbedResult(request.model, embeddings, len(batch.input_ids), 0, 0, "")
        return heroku.render(self._call, result)

    def _tokenize(self) -> Batch:
        request = self._call.request
        (text,) = self._tokenizer.encode_now((QUERY,), request.task, request.truncate)
        return batch_of([text])

    def measure(self) -> None:
        deadline = time.perf_counter() + QUERY_SECONDS
        now = 0.0
        while now < deadline:
            began = time.perf_counter()
            self.answer()
            now = time.perf_counter()
            self._seconds.append(now - began)

    def latency(self) -> Latency:
        p50, p99 = np.percentile(self._seconds, (50, 99))
        (output_type,) = self._call.request.output_types
        return Latency(output_type, float(p50), float(p99), len(self._seconds))


# ---- what is measured ---------------------------------------------------------------------------------------


def _cells(spec: ModelSpec, engine: Engine, threads: Executor) -> dict[tuple[int, int], Rate]:
    """One trial per length and batch, with a caller per stream, as the server has."""
    lengths = [length for length in LENGTHS if length <= spec.max_seq_length] or [spec.max_seq_length]
    return {
        (length, batch): _cell(_texts(spec, length, batch), engine, threads)
        for length in lengths
        for batch in BATCHES
    }


def _cell(batch: Batch, engine: Engine, threads: Executor) -> Rate:
    return Rate(lambda: engine.run(batch), len(batch.input_ids), engine.streams, threads)


def _texts(spec: ModelSpec, length: int, batch: int) -> Batch:
    """Make texts of random tokens: speed does not depend on what a text says."""
    try:
        vocabulary = int(spec.config["vocab_size"])
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{spec.id}: config.json: vocab_size is missing or not a number.") from None
    ids = np.random.default_rng(length * batch).integers(0, vocabulary, length * batch, np.int32)
    return Batch(ids, np.full(batch, length, np.int32))


def _order(cells: dict[tuple[int, int], Rate], others: Sequence[Trial]) -> list[Trial]:
    """Put what every cell is compared with after each length, so that it meets the machine in the same moods."""
    order: list[Trial] = []
    for _, row in groupby(cells.items(), key=lambda item: item[0][0]):
        order += [*(cell for _, cell in row), *others]
    return order


def _products(
    shapes: Iterable[tuple[int, int]], precision: Precision, threads: int, callers: Executor
) -> dict[tuple[int, int], list[Rate]]:
    """Trials per shape: each way in which a library here may compute its products."""
    return {
        shape: [
            Rate(each.run, each.flops, each.streams, callers)
            for each in matrix_products(*shape, precision=precision, threads=threads)
        ]
        for shape in sorted({either_way(shape) for shape in shapes})
    }


def either_way(shape: tuple[int, int]) -> tuple[int, int]:
    """Return a weight's shape or its transpose's, whichever has the smaller number first."""
    low, high = sorted(shape)
    return low, high


def _peak(shapes: Iterable[tuple[int, int]], rates: Mapping[tuple[int, int], Rate]) -> Peak:
    """Weigh the rates by the model's work at each shape: the time of all its products, one after the other."""
    work: Counter[tuple[int, int]] = Counter()
    for shape in shapes:
        work[either_way(shape)] += flops_per_token([shape])
    products = tuple(Product(shape, work[shape], rates[shape].rate) for shape in sorted(work))
    seconds_per_token = sum(each.flops_per_token / each.flops_per_second for each in products)
    variation = max(rate.variation for rate in rates.values())
    return Peak(work.total() / seconds_per_token, 1 / seconds_per_token, variation, products)


def _throughput(length: int, batch: int, cell: Rate, peak: Peak) -> Throughput:
    return Throughput(length, batch, cell.rate, cell.rate / peak.tokens_per_second, cell.rounds)
