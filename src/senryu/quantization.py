"""From texts to a model's calibration for int8, with what it costs and what it gains on this machine.

Knows which layers are left as they are, how the loss is measured and where its floor is. Shows nothing; what a window
is, and how a layer is made from it, is the engine's.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from senryu import engine
from senryu.bench import Rate, in_rounds
from senryu.calibration import Texts
from senryu.engine import Engine
from senryu.engine.calibration import calibrate
from senryu.engine.int8 import FILE, FORMATS, Calibration, Loss
from senryu.engine.machine import native_precisions
from senryu.engine.model import Model
from senryu.engine.windows import Window, noise
from senryu.errors import ModelError, SetupError
from senryu.models import ModelSpec
from senryu.tokenizer import Tokenizer
from senryu.types import Batch, Precision, Task, Tokens, Truncate, Vectors
from senryu.verify import embed_together, spearman

NEAREST = 10

# NOTE: below these a calibration is refused. Rounding the weights alone takes the default model to 0.9991, and below
# 0.998 neighbours change places; see docs/decisions/0007-int8.md.
FLOOR_MEAN, FLOOR_P1 = 0.998, 0.996

# Layers are left as they are where that takes away so much of the loss, and are so little of the work together.
LEAST_GAIN = 0.1
LEFT_SHARE = 1 / 8
CANDIDATES = 8  # inputs of layers that are tried
SAMPLE = 96  # texts, about, that they are tried on

LONE_TOKENS = 16
BATCHES = ((32, 16), (8, 128))  # texts, tokens a text
DIGITS = 5  # of a loss: further ones depend on the processor


@dataclass(frozen=True, slots=True)
class Measured:
    """One precision: its loss against f32 on the texts that were held back, and its speed here."""

    precision: Precision
    loss: Loss
    lone_seconds: float  # for a text of LONE_TOKENS, alone
    tokens_per_second: tuple[float, ...]  # for each of BATCHES


@dataclass(frozen=True, slots=True)
class Report:
    """A calibration with its loss, and what it was measured beside."""

    calibration: Calibration
    texts: Texts
    left: tuple[str, ...]  # layers that stay as they are, because int8 costs too much there
    measured: tuple[Measured, ...]  # f32, bf16 where the processor has it, int8

    @property
    def problem(self) -> str | None:
        """Say why the calibration should not be used; None where it may."""
        loss = self.measured[-1].loss
        below = [
            f"the {name} cosine to f32 is {value}, and {floor} is the least"
            for name, value, floor in (
                ("mean", loss.cosine_mean, FLOOR_MEAN),
                ("first percentile of the", loss.cosine_p1, FLOOR_P1),
            )
            if not value >= floor
        ]
        return "; ".join(below) or None


class Progress(Protocol):
    """What is told how far it is."""

    def start(self, steps: int) -> None: ...

    def step(self, doing: str) -> None: ...


# ---- calibration --------------------------------------------------------------------------------------------


def check(spec: ModelSpec) -> None:
    """Raise SettingError if this processor, ModelError if this model cannot have int8."""
    engine.choose_precision(Precision.INT8.value)
    if not engine.is_ours(spec):
        raise ModelError(
            f"{spec.id}: {spec.folder}: is computed by its exported graph, whose layers cannot be quantised; "
            "int8 needs weights in safetensors and an architecture that has an encoder here."
        )


def quantise(spec: ModelSpec, texts: Texts, *, threads: int, seconds: float, progress: Progress) -> Report:
    """Calibrate, and measure int8 beside the other precisions for about `seconds`.

    Raises ModelError for files that do not fit the architecture. The calibration follows from the model and the texts
    alone; so does its loss, up to what the processor rounds differently.
    """
    precisions = (*reversed(native_precisions()), Precision.INT8)
    progress.start(1 + 2 + CANDIDATES + len(precisions) + 1)
    progress.step(f"calibrating with {len(texts.calibrating)} texts")
    tokens = _tokenize(spec, texts.calibrating)
    whole = calibrate(spec, [text.ids for text in tokens], threads)
    calibration, left = _leave(spec, whole, tokens, threads, progress)
    held_back = _tokenize(spec, texts.held_back)
    with _loaded(spec, calibration, precisions, threads) as engines:
        vectors: dict[Precision, Vectors] = {}
        for precision, loaded in engines.items():
            progress.step(f"{precision.value}: {len(held_back)} texts that were held back")
            vectors[precision] = embed_together(loaded, held_back)
        losses = {p: measure_loss(vectors[Precision.F32], given) for p, given in vectors.items()}
        progress.step(f"measuring speed for {seconds:g} s")
        measured = _measure(engines, losses, held_back, seconds, spec.max_seq_length)
    return Report(replace(calibration, loss=losses[Precision.INT8]), texts, left, measured)


def _tokenize(spec: ModelSpec, texts: Sequence[str]) -> list[Tokens]:
    """Return each text as the model reads it; documents and queries in turn, for a model whose prompts differ."""
    tokenizer = Tokenizer(spec)
    tasks = cycle((Task.SEARCH_DOCUMENT, Task.SEARCH_QUERY))
    try:
        return [
            tokenizer.encode_now([text], task, Truncate.END)[0]
            for text, task in zip(texts, tasks, strict=False)
        ]
    finally:
        tokenizer.close()


@contextmanager
def _loaded(
    spec: ModelSpec, calibration: Calibration, precisions: Iterable[Precision], threads: int
) -> Iterator[Mapping[Precision, Engine]]:
    """Load an engine a precision, from a folder that has the model's files and the calibration.

    NOTE: so what is measured is what the written file will give, and the model's own folder is not touched.
    """
    with tempfile.TemporaryDirectory(prefix="senryu-int8-") as name, ExitStack() as stack:
        folder = Path(name)
        for path in spec.folder.resolve().iterdir():
            if path.name != FILE:
                (folder / path.name).symlink_to(path)
        (folder / FILE).write_text(calibration.dumps(), "utf-8")
        tried = replace(spec, folder=folder)
        engines = {}
        for precision in precisions:
            engines[precision] = engine.load(tried, precision=precision, threads=threads)
            stack.callback(engines[precision].close)
        yield engines


# ---- layers that are left -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Input:
    """What one or several layers read: their names, their share of the work, the noise that its rounding makes."""

    layers: tuple[str, ...]
    work: int
    noise: float


def _leave(
    spec: ModelSpec, whole: Calibration, texts: Sequence[Tokens], threads: int, progress: Progress
) -> tuple[Calibration, tuple[str, ...]]:
    """Take the layers out of a calibration that cost most of the quality and little of the speed.

    The noisiest are tried one by one, on texts that were calibrated with, so that what was held back stays unseen.
    """
    sample = texts[:: max(1, len(texts) // SAMPLE)]
    exact = _embed(spec, whole, Precision.F32, sample, threads, progress)

    def error(layers: Sequence[str]) -> float:
        given = _embed(spec, _without(whole, layers), Precision.INT8, sample, threads, progress)
        return 1 - float((_unit(exact) * _unit(given)).sum(axis=1).mean())

    inputs = _inputs(spec, whole)
    all_of_it = error(())
    noisiest = sorted(inputs, key=lambda each: -each.noise)[:CANDIDATES]
    errors = {each.layers: error(each.layers) for each in noisiest}
    room = LEFT_SHARE * sum(each.work for each in inputs)
    left: list[str] = []
    for each in sorted(noisiest, key=lambda each: errors[each.layers]):
        if errors[each.layers] <= (1 - LEAST_GAIN) * all_of_it and each.work <= room:
            left += each.layers
            room -= each.work
    return _without(whole, left), tuple(left)


def _without(calibration: Calibration, layers: Sequence[str]) -> Calibration:
    windows = {name: window for name, window in calibration.windows.items() if name not in layers}
    return replace(calibration, windows=windows)


def _embed(
    spec: ModelSpec,
    calibration: Calibration,
    precision: Precision,
    texts: Sequence[Tokens],
    threads: int,
    progress: Progress,
) -> Vectors:
    progress.step("looking for layers to leave as they are")
    with _loaded(spec, calibration, (precision,), threads) as engines:
        return embed_together(engines[precision], texts)


def _inputs(spec: ModelSpec, calibration: Calibration) -> list[_Input]:
    weights = Model(spec).weights
    layers: dict[int, list[str]] = {}
    for name, window in calibration.windows.items():
        layers.setdefault(id(window), []).append(name)
    return [
        _input(names, calibration.windows[names[0]], [weights[f"{name}.weight"] for name in names])
        for names in layers.values()
    ]


def _input(names: Sequence[str], window: Window, weights: Sequence[NDArray[np.float32]]) -> _Input:
    widths = (window.high - window.low) / window.copies
    return _Input(tuple(names), sum(weight.size for weight in weights), noise(widths, weights))


# ---- loss ---------------------------------------------------------------------------------------------------


def measure_loss(exact: Vectors, given: Vectors) -> Loss:
    """Compare vectors of length 1, [n, D], with f32's of the same texts."""
    a, b = (_unit(vectors) for vectors in (exact, given))
    cosines = (a * b).sum(axis=1)
    similarities, those_given = a @ a.T, b @ b.T
    pairs = np.triu_indices(len(a), 1)
    p1 = float(np.percentile(cosines, 1))
    correlation = spearman(similarities[pairs], those_given[pairs]) / 100
    return Loss(
        texts=len(a),
        cosine_mean=round(float(cosines.mean()), DIGITS),
        cosine_p1=round(p1, DIGITS),
        cosine_min=round(float(cosines.min()), DIGITS),
        rank_correlation=round(correlation, DIGITS),
        top10_overlap=round(_overlap(similarities, those_given), DIGITS),
    )


def _unit(vectors: Vectors) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    unit: NDArray[np.float64] = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    return unit


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return which share of each text's nearest others by `a` is among the nearest by `b`."""
    shared = [len(set(left) & set(right)) for left, right in zip(_nearest(a), _nearest(b), strict=True)]
    return float(np.mean(shared)) / NEAREST


def _nearest(similarities: NDArray[np.float64]) -> list[list[int]]:
    others = similarities - np.diag(np.full(len(similarities), np.inf))
    nearest: list[list[int]] = np.argsort(-others, axis=1, kind="stable")[:, :NEAREST].tolist()
    return nearest


# ---- speed --------------------------------------------------------------------------------------------------


def _measure(
    engines: Mapping[Precision, Engine],
    losses: Mapping[Precision, Loss],
    texts: Sequence[Tokens],
    seconds: float,
    longest: int,
) -> tuple[Measured, ...]:
    """Measure all engines in turn, so that a machine that is slow for a while is slow for each of them.

    No text has more than `longest` tokens, what the model reads.
    """
    ids = np.concatenate([text.ids for text in texts])

    def batch(count: int, length: int) -> Batch:
        length = min(length, longest)
        return Batch(np.resize(ids, count * length), np.full(count, length, np.int32))

    with ThreadPoolExecutor(max(loaded.streams for loaded in engines.values())) as callers:
        lone = {p: _rate(loaded, batch(1, LONE_TOKENS), 1, callers) for p, loaded in engines.items()}
        batches = {
            p: [_rate(loaded, batch(*shape), loaded.streams, callers) for shape in BATCHES]
            for p, loaded in engines.items()
        }
        order = [*lone.values(), *(rates[i] for i in range(len(BATCHES)) for rates in batches.values())]
        in_rounds(order, seconds)
    return tuple(
        Measured(p, losses[p], LONE_TOKENS / lone[p].rate, tuple(rate.rate for rate in batches[p]))
        for p in engines
    )


def _rate(loaded: Engine, batch: Batch, callers: int, threads: Executor) -> Rate:
    return Rate(lambda: loaded.run(batch), len(batch.input_ids), callers, threads)


# ---- the file -----------------------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """Raise SetupError if a calibration cannot be written to `path`, or would replace something else."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise SetupError(f"{path}: there is no folder {folder}; make it first.")
    if path.is_dir():
        raise SetupError(f"{path}: is a folder; --output takes the name of a file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SetupError(f"{path}: the folder {folder} cannot be written; name another file with --output.")
    if path.exists() and not any(each.encode() in _head(path) for each in FORMATS):
        raise SetupError(f"{path}: is there, and is no calibration; name another file with --output.")


def _head(path: Path) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        return file.read(200)
    return b""


def write(calibration: Calibration, path: Path) -> None:
    """Write the file in one step: whoever reads it sees the old one or the new one. Raises SetupError."""
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(calibration.dumps())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise SetupError(f"{path}: cannot be written: {error.strerror}.") from None
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
