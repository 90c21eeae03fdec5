"""Whether a model's vectors are right on this machine: its files, its recorded golden vectors, its known scores.

Computes what it is handed and shows nothing. Golden vectors are recorded in the package, made by the float64
reference engine; a model that has none is held against that engine here, as far as an encoder of ours computes it.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from senryu import engine, models
from senryu.engine import Engine, int8
from senryu.engine.machine import native_precisions
from senryu.errors import ModelError, SetupError
from senryu.models import ModelSpec
from senryu.tokenizer import Tokenizer
from senryu.types import Precision, Task, Tokens, Truncate, Vectors

# Written for this purpose: short and long, with signs, several scripts, and what a vocabulary does not know.
TEXTS: tuple[tuple[str, Task], ...] = (
    ("The frog jumps into the old pond.", Task.SEARCH_DOCUMENT),
    ("why does the frog jump into the pond?", Task.SEARCH_QUERY),
    ("x", Task.SEARCH_DOCUMENT),
    ("Invoice no. 4711-B: 3 × 12.50 € = 37.50 €, due 2026-03-31.", Task.SEARCH_DOCUMENT),
    ("def area(r): return math.pi * r ** 2  # not the circumference", Task.SEARCH_DOCUMENT),
    ("Crème brûlée in der Straße, İstanbul'da ﬁne ligatures", Task.SEARCH_DOCUMENT),
    ("古い池に蛙が飛びこみ、水の音がする。", Task.SEARCH_DOCUMENT),
    ("Лягушка прыгнула в старый пруд, и снова тихо.", Task.SEARCH_DOCUMENT),
    ("قفز الضفدع إلى البركة القديمة 🐸", Task.SEARCH_DOCUMENT),
    ("  white   space\tand a new line\n around  ", Task.CLASSIFICATION),
    ("rain on the roof, crows on the branch, snow on the moor", Task.CLUSTERING),
    ("An old silent pond; a frog leaps in, and the water answers. " * 30, Task.SEARCH_DOCUMENT),
)
COMPUTED_HERE = 4  # texts that the slow reference computes for a model without golden vectors

STS_FILES = {"STSBenchmark": "STSBenchmark.tsv", "STS17 en-en": "sts_STS17_en-en.tsv"}
BATCH_TOKENS = 1024


class Limit(NamedTuple):
    """How far a precision may be from the reference."""

    cosine: float  # of a text, at least
    difference: float  # of a component of the vector of length 1, at most
    points: float  # of a score, either way


# Measured on the default model's golden vectors: difference 2.3e-7 in f32; cosine 0.99997 and 1.3e-3 in bf16; 0.9972
# and 1.2e-2 in int8, 0.9932 at the least of 123 other texts.
LIMITS = {
    Precision.F32: Limit(0.999999, 1e-5, 0.1),
    Precision.BF16: Limit(0.999, 1e-2, 0.3),
    Precision.INT8: Limit(0.99, 5e-2, 0.5),
}


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file of the model; `expected` None where nothing pins it, `sha256` None where it is missing."""

    path: str
    sha256: str | None
    expected: str | None

    @property
    def state(self) -> str:
        if self.sha256 is None:
            return "missing"
        if self.expected is None:
            return "not pinned"
        return "right" if self.sha256 == self.expected else "wrong"


@dataclass(frozen=True, slots=True)
class Golden:
    """Texts and what the reference makes of them; `tokens` None where that is not on record."""

    source: str
    texts: tuple[tuple[str, Task], ...]
    vectors: NDArray[np.float32]  # [n, D], of length 1
    tokens: tuple[int, ...] | None
    scores: Mapping[str, float]  # points by task


@dataclass(frozen=True, slots=True)
class VectorCheck:
    """One precision against the reference."""

    precision: Precision
    engine: str
    least_cosine: float
    largest_difference: float
    miscounted: tuple[int, ...]  # texts whose tokens are not as many as recorded

    @property
    def problem(self) -> str | None:
        limit = LIMITS[self.precision]
        if self.miscounted:
            return f"{len(self.miscounted)} texts have other tokens than recorded: the tokenizer is not the model's"
        if not self.least_cosine >= limit.cosine:
            return f"cosine {self.least_cosine:.7f}, at least {limit.cosine} is right"
        if not self.largest_difference <= limit.difference:
            return (
                f"largest difference {self.largest_difference:.1e}, at most {limit.difference:.0e} is right"
            )
        return None


@dataclass(frozen=True, slots=True)
class Score:
    """Spearman's rank correlation of cosines and people's scores, in points."""

    task: str
    precision: Precision
    points: float
    expected: float | None

    @property
    def problem(self) -> str | None:
        allowed = LIMITS[self.precision].points
        if self.expected is None or abs(self.points - self.expected) <= allowed:
            return None
        return f"{self.points:.2f} points, {self.expected:.2f} ± {allowed} is right"


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    spec: ModelSpec
    files: tuple[FileCheck, ...]
    golden: str | None  # where the reference vectors are from; None if there is nothing to compare with
    vectors: tuple[VectorCheck, ...]
    scores: tuple[Score, ...]

    @property
    def problems(self) -> list[str]:
        """Say in words what is off."""
        found = [f"{check.precision}: {check.problem}" for check in self.vectors if check.problem]
        return found + [
            f"{item.task} {item.precision}: {item.problem}" for item in self.scores if item.problem
        ]


def check_files(folder: Path, pins: Mapping[str, str], others: Sequence[str] = ()) -> tuple[FileCheck, ...]:
    """Hash every pinned file anew, and those of `others` that no pin is for."""
    paths = [*pins, *(path for path in others if path not in pins)]
    return tuple(
        FileCheck(
            path, models.sha256_of(folder / path) if (folder / path).is_file() else None, pins.get(path)
        )
        for path in paths
    )


def precisions_of(spec: ModelSpec) -> tuple[Precision, ...]:
    """Return what a model can be computed in here: the native precisions, and int8 where it has a calibration."""
    has_int8 = engine.runs_int8() and engine.is_ours(spec) and int8.is_calibrated(spec)
    return (*native_precisions(), Precision.INT8) if has_int8 else native_precisions()


def verify(
    spec: ModelSpec,
    files: Sequence[FileCheck],
    precisions: Sequence[Precision],
    *,
    threads: int,
    data: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Compute golden vectors, and with `data` STS scores, in each precision.

    Raises ModelError if the model cannot be loaded, SetupError if `data` cannot be read.
    """
    pairs = {task: read_pairs(data / "sts" / name) for task, name in STS_FILES.items()} if data else {}
    tokenizer = Tokenizer(spec)
    golden = recorded(spec) or computed(spec, tokenizer)
    vectors, scores = [], []
    for precision in precisions:
        progress(f"{precision}: loading")
        loaded = engine.load(spec, precision=precision, threads=threads)
        if golden:
            vectors.append(compare(loaded, tokenizer, golden))
        for task, rated in pairs.items():
            progress(f"{precision}: {task}")
            expected = golden.scores.get(task) if golden else None
            scores.append(Score(task, precision, sts(loaded, tokenizer, rated), expected))
        loaded.close()
    tokenizer.close()
    source = golden.source if golden else None
    return Report(spec, tuple(files), source, tuple(vectors), tuple(scores))


def recorded(spec: ModelSpec) -> Golden | None:
    """Return the golden vectors that the package carries for exactly these weights."""
    for file in package_files("senryu.models").joinpath("golden").iterdir():
        content = json.loads(file.read_text("utf-8"))
        if content["weights"] == spec.weights:
            return _golden(content)
    return None


def _golden(content: Mapping[str, Any]) -> Golden:
    items = content["texts"]
    return Golden(
        source=f"recorded ({content['made_by']})",
        texts=tuple((item["text"], Task(item["input_type"])) for item in items),
        vectors=np.stack([np.frombuffer(base64.b64decode(item["vector"]), "<f4") for item in items]),
        tokens=tuple(item["tokens"] for item in items),
        scores=content["scores"],
    )


def computed(spec: ModelSpec, tokenizer: Tokenizer, texts: int = COMPUTED_HERE) -> Golden | None:
    """Return what the float64 reference makes of the first texts; None where no encoder of ours computes the model.

    Raises ModelError if the model's files do not fit each other.
    """
    if not engine.is_ours(spec):
        return None
    reference = engine.load(spec, precision=Precision.F32, threads=1, engine="reference")
    chosen = TEXTS[:texts]
    tokens = tokenize(tokenizer, chosen)
    try:
        vectors = embed(reference, tokens)
    except (ValueError, IndexError) as error:  # as NumPy says that shapes do not fit
        raise ModelError(f"{spec.folder}: its weights do not fit config.json: {error}.") from None
    return Golden("computed here in float64", chosen, vectors, None, {})


def compare(loaded: Engine, tokenizer: Tokenizer, golden: Golden) -> VectorCheck:
    """Hold an engine's vectors, each text computed alone, against the reference's."""
    tokens = tokenize(tokenizer, golden.texts)
    given = embed(loaded, tokens).astype(np.float64)
    expected = golden.vectors.astype(np.float64)
    cosines = (
        (given * expected).sum(axis=1) / np.linalg.norm(given, axis=1) / np.linalg.norm(expected, axis=1)
    )
    counted = golden.tokens or tuple(len(text.ids) for text in tokens)
    miscounted = [i for i, text in enumerate(tokens) if len(text.ids) != counted[i]]
    return VectorCheck(
        precision=loaded.precision,
        engine=loaded.name,
        least_cosine=float(cosines.min()),
        largest_difference=float(np.abs(given - expected).max()),
        miscounted=tuple(miscounted),
    )


def tokenize(tokenizer: Tokenizer, texts: Sequence[tuple[str, Task]]) -> list[Tokens]:
    """Return each text as the model reads it."""
    return [tokenizer.encode_now([text], task, Truncate.END)[0] for text, task in texts]


def embed(loaded: Engine, texts: Sequence[Tokens]) -> Vectors:
    """Return one vector of length 1 a text, each computed alone."""
    rows = [loaded.run(engine.batch_of([text])) for text in texts]
    return np.concatenate(rows)


def embed_together(loaded: Engine, texts: Sequence[Tokens]) -> Vectors:
    """Return one vector of length 1 a text, texts of one bucket computed together."""
    order = sorted(range(len(texts)), key=lambda i: loaded.bucket(len(texts[i].ids)))
    rows = [loaded.run(engine.batch_of([texts[i] for i in group])) for group in _groups(loaded, texts, order)]
    places = np.empty(len(order), np.intp)
    places[order] = np.arange(len(order))
    return np.concatenate(rows)[places]


def _groups(loaded: Engine, texts: Sequence[Tokens], order: Sequence[int]) -> Iterator[list[int]]:
    rest = iter(order)
    group = list(islice(rest, 1))
    tokens = len(texts[group[0]].ids)
    for index in rest:
        length = len(texts[index].ids)
        same = loaded.bucket(length) == loaded.bucket(len(texts[group[0]].ids))
        if not same or tokens + length > BATCH_TOKENS:
            yield group
            group, tokens = [], 0
        group.append(index)
        tokens += length
    yield group


class Pairs(NamedTuple):
    """An STS set: pairs of sentences and how alike people found them."""

    scores: NDArray[np.float64]
    first: tuple[str, ...]
    second: tuple[str, ...]


def read_pairs(path: Path) -> Pairs:
    """Read score, sentence, sentence, divided by tabs, below a header. Raises SetupError if the file is another."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
        scores = np.array([float(row[0]) for row in rows])
        first, second = (tuple(row[column] for row in rows) for column in (1, 2))
    except FileNotFoundError:
        wanted = ", ".join(f"sts/{name}" for name in STS_FILES.values())
        raise SetupError(f"{path}: is missing; --data takes a folder with {wanted}.") from None
    except (OSError, ValueError, IndexError) as error:
        raise SetupError(f"{path}: is not score, sentence, sentence, divided by tabs: {error}.") from None
    if not rows:
        raise SetupError(f"{path}: has no pairs.")
    return Pairs(scores, first, second)


def sts(loaded: Engine, tokenizer: Tokenizer, pairs: Pairs) -> float:
    """Return Spearman's correlation of the cosines with people's scores over the whole file, in points."""
    unique = list(dict.fromkeys((*pairs.first, *pairs.second)))
    texts = tokenizer.encode_now(unique, Task.SEARCH_DOCUMENT, Truncate.END)
    vectors = embed_together(loaded, texts).astype(np.float64)
    place = {text: index for index, text in enumerate(unique)}
    first, second = (vectors[[place[text] for text in side]] for side in (pairs.first, pairs.second))
    return spearman((first * second).sum(axis=1), pairs.scores)


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, in points; equal values share the mean of their ranks."""
    return 100 * float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks
