"""The line from texts to vectors. Read this first: `Pipeline.embed` is one request's whole way.

admit → tokenize → queue and infer (batched with everybody else's) → encode → settle
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from senryu import metrics, outputs
from senryu.admission import Admission
from senryu.batcher import Batcher
from senryu.engine import Engine
from senryu.errors import EngineError, InvalidRequest, NotReady, QueueFull
from senryu.models import ModelSpec, file_hashes
from senryu.tokenizer import Tokenizer
from senryu.types import (
    Codes,
    EmbedRequest,
    EmbedResult,
    Key,
    OutputType,
    Task,
    Timings,
    Tokens,
    Truncate,
    Vectors,
)

logger = logging.getLogger(__name__)

CANARY = "The frog jumps into the old pond."
CANARY_SECONDS = 10.0

# Answers of more vectors are coded on a thread; the event loop has others to serve.
INLINE_VECTORS = 96


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is being served, and the stages that are its own."""

    spec: ModelSpec
    tokenizer: Tokenizer
    engine: Engine
    batcher: Batcher
    fingerprint: str


class Pipeline:
    """All models that are served, by id, behind one admission."""

    def __init__(self, models: Mapping[str, Model], admission: Admission) -> None:
        self.models = models
        self.admission = admission
        self.performance = Performance()
        for model in models.values():
            _tell_what_computes(model)

    async def embed(self, key: Key, request: EmbedRequest, timings: Timings) -> EmbedResult:
        """Answer a request.

        Raises RequestError for a request at fault, BusyError for one that must wait, EngineError.
        """
        ticket = self.admission.admit(key, request)
        answered = False
        try:
            model = self.models[ticket.resource.model_id]
            check_dimensions(request.dimensions, model.spec)

            with stage(timings, "tokenize"):
                texts = await tokenize(model, request, flow=ticket.key.id)
            prompt_tokens = sum(len(tokens.ids) for tokens in texts)
            self.admission.charge(ticket, prompt_tokens)

            vectors = await model.batcher.submit(texts, timings, flow=ticket.key.id)

            with stage(timings, "encode"):
                embeddings = await encode(vectors, request)
            answered = True
        finally:
            self.admission.settle(ticket, answered=answered)
        result = EmbedResult(
            model=request.model,
            embeddings=embeddings,
            prompt_tokens=prompt_tokens,
            truncated=sum(tokens.truncated for tokens in texts),
            unknown_tokens=sum(tokens.unknown for tokens in texts),
            fingerprint=model.fingerprint,
        )
        self._count(result, texts, timings)
        return result

    def _count(self, result: EmbedResult, texts: list[Tokens], timings: Timings) -> None:
        metrics.TEXTS.inc(len(texts))
        metrics.PROMPT_TOKENS.inc(result.prompt_tokens)
        metrics.TRUNCATED_TEXTS.inc(result.truncated)
        metrics.UNKNOWN_TOKENS.inc(result.unknown_tokens)
        self.performance.observe(sum(timings.stages.values()), result.prompt_tokens)


def _tell_what_computes(model: Model) -> None:
    name, engine = model.spec.id, model.engine
    metrics.ENGINE_INFO.labels(name, engine.name, engine.precision.value).set(1)
    if loss := engine.loss:
        for statistic in ("mean", "p1", "min"):
            metrics.PRECISION_COSINE.labels(name, statistic).set(getattr(loss, f"cosine_{statistic}"))


async def tokenize(model: Model, request: EmbedRequest, flow: str) -> list[Tokens]:
    """Read the inputs as tokens, unless they would find the queue full: reading them costs, too. Raises QueueFull."""
    batcher, tokenizer = model.batcher, model.tokenizer
    if batcher.waiting_tokens and (about := tokenizer.estimate(request.inputs)) <= batcher.queue_tokens:
        batcher.check_room(about, flow, about=True)
    try:
        return await tokenizer.encode(request.inputs, request.task, request.truncate, request.max_tokens)
    except QueueFull as full:
        raise QueueFull(str(full), max(full.retry_after, batcher.retry_after())) from None


async def encode(vectors: Vectors, request: EmbedRequest) -> Mapping[OutputType, Codes]:
    """Code vectors as a request asks, many of them on a thread."""
    if len(vectors) <= INLINE_VECTORS:
        return outputs.encode(vectors, request.dimensions, request.output_types)
    return await asyncio.to_thread(outputs.encode, vectors, request.dimensions, request.output_types)


@contextmanager
def stage(timings: Timings, name: str) -> Iterator[None]:
    """Add the time that the block takes to a stage."""
    started = time.perf_counter()
    yield
    timings.stages[name] = timings.stages.get(name, 0.0) + time.perf_counter() - started


def check_dimensions(dimensions: int | None, spec: ModelSpec) -> None:
    """Raise InvalidRequest, listing the sizes, if a model was not trained to be cut to this one."""
    sizes = sorted({*spec.matryoshka, spec.dimensions})
    if dimensions is not None and dimensions not in sizes:
        listed = ", ".join(map(str, sizes))
        raise InvalidRequest(
            f"'dimensions' is {dimensions}; the model '{spec.id}' offers {listed}.", "dimensions"
        )


def fingerprint(spec: ModelSpec, engine: Engine) -> str:
    """Return 16 hex digits over everything that decides the bits of a vector: equal ones promise equal bits."""
    decisive = {
        "files": dict(file_hashes(spec)),
        "prompts": dict(spec.prompts),
        "pooling": spec.pooling,
        "max_seq_length": spec.max_seq_length,
        "engine": engine.signature,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


class Performance:
    """Moving averages over the last hundred requests or so, for people to look at."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.tokens_per_second: float | None = None

    def observe(self, seconds: float, tokens: int) -> None:
        """Take in one answered request."""
        rate = tokens / seconds if seconds else 0.0
        if self.seconds is None or self.tokens_per_second is None:
            self.seconds, self.tokens_per_second = seconds, rate
        self.seconds += 0.01 * (seconds - self.seconds)
        self.tokens_per_second += 0.01 * (rate - self.tokens_per_second)


class Canary:
    """A known text whose vector must come back, finite and bit for bit as at the start.

    It has a place of its own in the engine's queue, so a saturated server is still ready; and many probes at once
    share one run.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tokens = model.tokenizer.encode_now([CANARY], Task.SEARCH_DOCUMENT, Truncate.END)
        self._expected: Vectors | None = None

        self._running: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raise NotReady, saying why, unless the canary comes back in time and as it should."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            await asyncio.wait_for(asyncio.shield(self._running), CANARY_SECONDS)
        except TimeoutError:
            raise NotReady(f"The engine has not answered for {CANARY_SECONDS:.0f} s.", 10) from None

    async def _run(self) -> None:
        try:
            vector = await self._model.batcher.submit(self._tokens, reserved=True)
        except EngineError as error:
            logger.warning("the canary text failed: %s", error)
            raise NotReady("The engine fails on the canary text. The log says why.", 10) from None
        if self._expected is None:
            self._expected = vector
        if self._model.engine.reproducible and not np.array_equal(vector, self._expected):
            raise NotReady("The engine answers the canary text with other bits than at the start.", 10)
