"""The line from texts to vectors. Read this first: `Pipeline.embed` is one request's whole way.

admit → tokenize → charge → queue and infer (batched with everybody else's) → encode; app.py settles, when it is told
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial

from senryu import metrics, outputs
from senryu.admission import Admission
from senryu.errors import InvalidRequest, QueueFull
from senryu.models import ModelSpec
from senryu.shelf import Model, Shelf
from senryu.tokenizer import is_short
from senryu.types import (
    Codes,
    EmbedRequest,
    EmbedResult,
    OutputType,
    Ticket,
    Timings,
    Tokens,
    Vectors,
)

# Answers of more vectors are coded on a thread; the event loop has others to serve.
INLINE_VECTORS = 96


class Pipeline:
    """All models that are served, behind one admission."""

    def __init__(self, shelf: Shelf, admission: Admission) -> None:
        self.shelf = shelf
        self.admission = admission
        self.performance = Performance()

    async def embed(self, ticket: Ticket, request: EmbedRequest, timings: Timings) -> EmbedResult:
        """Answer a request. Whoever opened the ticket settles it.

        Raises RequestError for a request at fault, BusyError for one that must wait, EngineError.
        """
        resource = self.admission.admit(ticket, request)
        model = await self.shelf.get(resource.model_id)
        dimensions = request.dimensions or resource.dimensions
        check_dimensions(dimensions, model.spec)

        started = time.perf_counter()
        texts = await tokenize(model, request, flow=ticket.key.id)
        timings.stages["tokenize"] = time.perf_counter() - started
        prompt_tokens = sum([len(tokens.ids) for tokens in texts])
        self.admission.charge(ticket, prompt_tokens)

        vectors = await model.lane.submit(texts, timings, flow=ticket.key.id)

        started = time.perf_counter()
        embeddings = await encode(vectors, dimensions, request.output_types)
        timings.stages["encode"] = time.perf_counter() - started
        result = EmbedResult(
            model=request.model,
            embeddings=embeddings,
            prompt_tokens=prompt_tokens,
            truncated=sum([tokens.truncated for tokens in texts]),
            unknown_tokens=sum([tokens.unknown for tokens in texts]),
            fingerprint=model.fingerprint,
        )
        self._count(result, texts, timings)
        return result

    def _count(self, result: EmbedResult, texts: list[Tokens], timings: Timings) -> None:
        metrics.TEXTS.add(len(texts))
        metrics.PROMPT_TOKENS.add(result.prompt_tokens)
        metrics.TRUNCATED_TEXTS.add(result.truncated)
        metrics.UNKNOWN_TOKENS.add(result.unknown_tokens)
        self.performance.observe(sum(timings.stages.values()), result.prompt_tokens)


async def tokenize(model: Model, request: EmbedRequest, flow: str) -> list[Tokens]:
    """Read the inputs as tokens, unless they would find the queue full: reading many costs, too. Raises QueueFull."""
    batcher, tokenizer = model.lane.batcher, model.tokenizer
    if batcher.waiting_tokens and not is_short(request.inputs):
        about = tokenizer.estimate(request.inputs)
        if about <= batcher.queue_tokens:
            batcher.check_room(model.lane, about, flow, about=True)
    try:
        return await tokenizer.encode(request.inputs, request.task, request.truncate, request.max_tokens)
    except QueueFull as full:
        raise QueueFull(str(full), max(full.retry_after, batcher.retry_after())) from None


async def encode(
    vectors: Vectors, dimensions: int | None, output_types: tuple[OutputType, ...]
) -> Mapping[OutputType, Codes]:
    """Code vectors of length 1 as a request asks, many of them on a thread."""
    is_cut = dimensions is not None and dimensions < vectors.shape[1]
    work = partial(outputs.encode, vectors, dimensions) if is_cut else partial(outputs.codes, vectors)
    if len(vectors) <= INLINE_VECTORS:
        return work(output_types)
    return await asyncio.to_thread(work, output_types)


def check_dimensions(dimensions: int | None, spec: ModelSpec) -> None:
    """Raise InvalidRequest, listing the sizes, if a model was not trained to be cut to this one."""
    if dimensions is not None and dimensions != spec.dimensions and dimensions not in spec.matryoshka:
        listed = ", ".join(map(str, sorted({*spec.matryoshka, spec.dimensions})))
        raise InvalidRequest(
            f"'dimensions' is {dimensions}; the model '{spec.id}' offers {listed}.", "dimensions"
        )


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
