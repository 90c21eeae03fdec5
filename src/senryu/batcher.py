"""Waiting texts → micro-batches → replies. Speaks in tokens; asks the engine what a text occupies.

The queue fills while the engine is busy and is emptied as fast as it runs: no timer, no sleep. Texts of one bucket,
whoever sent them, share a batch. Knows nothing of keys, wires, or what the vectors are for.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from senryu import metrics
from senryu.engine import Engine
from senryu.errors import EngineError, NotReady, QueueFull
from senryu.types import Batch, Timings, Tokens, Vectors

logger = logging.getLogger(__name__)

# Tokens, padding included, that run together: near the best rate already, and short enough (some 15 ms here) that
# nobody waits long behind a batch.
BATCH_TOKENS = 512


@dataclass(slots=True, eq=False)
class Submission:
    """The texts of one request on their way, and the reply that they share."""

    reply: asyncio.Future[Vectors]
    rows: list[Vectors | None]
    missing: int
    submitted: float
    started: float = 0.0


@dataclass(slots=True)
class Job:
    """One text: its place in its submission, and in the order of arrival."""

    submission: Submission
    row: int
    tokens: Tokens
    size: int  # tokens with padding
    arrival: int


@dataclass(slots=True)
class _Queue:
    """Jobs that wait, by bucket, each bucket in order of arrival. Guarded by the batcher's lock."""

    buckets: dict[int, deque[Job]] = field(default_factory=dict)
    reserved: deque[Job] = field(default_factory=deque)
    tokens: int = 0

    def put(self, job: Job) -> None:
        self.buckets.setdefault(job.size, deque()).append(job)
        self.tokens += job.size

    def take(self, budget: int) -> list[Job]:
        """Return the next batch: the job that waits longest, and what waits in its bucket, up to the budget."""
        if self.reserved:
            return [self.reserved.popleft()]
        if not self.buckets:
            return []
        size = min(self.buckets, key=lambda bucket: self.buckets[bucket][0].arrival)
        bucket = self.buckets[size]
        jobs = [bucket.popleft() for _ in range(min(len(bucket), max(1, budget // size)))]
        if not bucket:
            del self.buckets[size]
        self.tokens -= size * len(jobs)
        return jobs

    def drop(self, submission: Submission) -> None:
        """Forget the jobs of one submission."""
        for size, bucket in list(self.buckets.items()):
            kept = deque(job for job in bucket if job.submission is not submission)
            self.tokens -= size * (len(bucket) - len(kept))
            if kept:
                self.buckets[size] = kept
            else:
                del self.buckets[size]


class Batcher:
    """Feeds one engine from all requests, with one thread per engine stream."""

    def __init__(self, engine: Engine, queue_tokens: int) -> None:
        """`queue_tokens` bounds what may wait, padding included."""
        self._engine = engine
        self._queue_tokens = queue_tokens
        self._queue = _Queue()
        self._arrivals = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._rate = 5_000.0  # tokens/s, until measured
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{n}", daemon=True)
            for n in range(engine.streams)
        ]

    def start(self) -> None:
        """Begin to work; replies are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    @property
    def waiting_tokens(self) -> int:
        """Tokens in the queue, padding included."""
        return self._queue.tokens

    async def submit(
        self, texts: Sequence[Tokens], timings: Timings | None = None, *, reserved: bool = False
    ) -> Vectors:
        """Return the vectors of the texts, [len(texts), D], in order.

        `reserved` jobs pass the queue and its bound: for the readiness canary alone. Raises QueueFull when too
        much waits, NotReady when closed, EngineError when a text cannot be computed.
        """
        loop = asyncio.get_running_loop()
        submission = Submission(loop.create_future(), [None] * len(texts), len(texts), time.perf_counter())
        self._enqueue(submission, texts, reserved=reserved)
        try:
            vectors = await submission.reply
        except BaseException:  # cancelled, or one of its texts failed: nobody wants the others
            with self._changed:
                self._queue.drop(submission)
            raise
        if timings is not None:
            timings.stages["queue"] = submission.started - submission.submitted
            timings.stages["infer"] = time.perf_counter() - submission.started
        return vectors

    def _enqueue(self, submission: Submission, texts: Sequence[Tokens], *, reserved: bool) -> None:
        jobs = [
            Job(submission, row, tokens, self._engine.bucket(len(tokens.ids)), next(self._arrivals))
            for row, tokens in enumerate(texts)
        ]
        needed = sum(job.size for job in jobs)
        with self._changed:
            if self._closed:
                raise NotReady("The server is shutting down.", retry_after=1)
            if reserved:
                self._queue.reserved.extend(jobs)
            elif self._queue.tokens + needed > self._queue_tokens:
                raise self._full(needed)
            else:
                for job in jobs:
                    self._queue.put(job)
            self._changed.notify()

    def _full(self, needed: int) -> QueueFull:
        if needed > self._queue_tokens:
            message = (
                f"This request needs {needed} tokens, and at most {self._queue_tokens} may wait. Send fewer."
            )
        else:
            message = (
                f"The queue is full: {self._queue.tokens} tokens are waiting, this request needs {needed}, "
                f"and at most {self._queue_tokens} may wait. Try again later."
            )
        return QueueFull(message, retry_after=max(1, math.ceil(self._queue.tokens / self._rate)))

    def _work(self) -> None:
        while jobs := self._next():
            started = time.perf_counter()
            for job in jobs:
                job.submission.started = job.submission.started or started
            rows = self._run(jobs)
            self._measure(jobs, time.perf_counter() - started)
            self._call_loop(jobs, rows)

    def _next(self) -> list[Job]:
        """Wait for jobs; an empty list means closed, with nothing left to do."""
        with self._changed:
            while not (jobs := self._queue.take(BATCH_TOKENS)):
                if self._closed:
                    return []
                self._changed.wait()
            if self._queue.buckets:
                self._changed.notify()
            metrics.QUEUE_TOKENS.set(self._queue.tokens)
            return jobs

    def _run(self, jobs: list[Job]) -> list[Vectors | EngineError]:
        """Compute a batch; one that fails is halved until the text at fault stands alone."""
        try:
            vectors = self._engine.run(_batch(jobs))
        except Exception as error:
            logger.warning("a batch of %d failed: %s", len(jobs), error)
            if len(jobs) == 1:
                return [error if isinstance(error, EngineError) else EngineError(str(error))]
            middle = len(jobs) // 2
            return self._run(jobs[:middle]) + self._run(jobs[middle:])
        finite = np.isfinite(vectors.sum(axis=1))
        return [
            row if good else EngineError("The model's answer is not a finite number.")
            for row, good in zip(vectors, finite, strict=True)
        ]

    def _measure(self, jobs: list[Job], seconds: float) -> None:
        computed = sum(job.size for job in jobs)
        self._rate += 0.05 * (computed / seconds - self._rate)
        metrics.BATCH_TEXTS.observe(len(jobs))
        metrics.TOKENS_COMPUTED.inc(computed)
        metrics.TOKENS_USEFUL.inc(sum(len(job.tokens.ids) for job in jobs))
        metrics.ENGINE_SECONDS.inc(seconds)

    def _call_loop(self, jobs: list[Job], rows: list[Vectors | EngineError]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._deliver, jobs, rows)
        except RuntimeError:  # the loop is gone: so is everyone who waited on it
            logger.debug("%d answers came after the event loop had closed", len(jobs))

    def _deliver(self, jobs: list[Job], rows: list[Vectors | EngineError]) -> None:
        """Hand rows to their submissions; the last row of one completes its reply."""
        for job, row in zip(jobs, rows, strict=True):
            submission = job.submission
            if submission.reply.done():
                continue
            if isinstance(row, EngineError):
                submission.reply.set_exception(row)
                continue
            submission.rows[job.row] = row
            submission.missing -= 1
            if not submission.missing:
                submission.reply.set_result(np.stack([row for row in submission.rows if row is not None]))

    def close(self) -> None:
        """Refuse new texts, finish the waiting ones, end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()


def _batch(jobs: list[Job]) -> Batch:
    return Batch(
        input_ids=np.concatenate([job.tokens.ids for job in jobs]),
        lengths=np.array([len(job.tokens.ids) for job in jobs], np.int32),
    )
