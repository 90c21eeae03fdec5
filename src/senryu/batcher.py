"""Waiting texts → micro-batches → replies. Speaks in tokens; asks the engines what a text occupies.

One queue for all models; an engine has a lane in it. The queue fills while the engines are busy and is emptied as fast
as they run: no timer, no sleep. What runs next is fairqueue.py's to say, and is decided only when an engine stream is
free. Identical texts of one flow that are under way together are computed once. Knows flows by name, not what a key is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np

from senryu import metrics
from senryu.engine import Engine, batch_of
from senryu.errors import EngineError, NotReady, QueueFull
from senryu.fairqueue import FairQueue, Identity, Job, Submission
from senryu.types import Timings, Tokens, Vectors

logger = logging.getLogger(__name__)

# Of a micro-batch, whatever the engine's speed.
MIN_BATCH_TOKENS = 128
MAX_BATCH_TOKENS = 1024
# Full batches stay of one size while the rate trembles: an engine is faster at a shape that it has just run.
BUDGET_STEP = 32

# Of the queue's bound: what is kept free beyond it for flows that have little waiting, and what little is.
RESERVED_SHARE = 1 / 4
SMALL_SHARE = 1 / 64

# What an engine is taken to compute before it has been measured, in tokens/s of one stream.
FIRST_RATE = 10_000.0

# How far an engine's threads stand back, of 19. With two processors and three threads the one that feeds both engines
# is otherwise kept waiting until both have nothing to do; docs/decisions/0005-scheduling.md has what it costs.
ENGINE_NICENESS = 5

# The flow of texts that no key asked for.
OWN_FLOW = ""


class Lane:
    """One engine's way through the queue that all engines share, and what is measured of it."""

    def __init__(self, batcher: Batcher, engine: Engine, number: int) -> None:
        self.batcher = batcher
        self._number = number
        self.engine = engine
        self.rate = FIRST_RATE  # tokens/s of one stream; soon measured
        self._measured = 0.0  # full batches' worth

    @property
    def budget(self) -> int:
        """How many tokens a batch shall have."""
        tokens = min(max(self.rate * self.engine.batch_seconds, MIN_BATCH_TOKENS), MAX_BATCH_TOKENS)
        return int(tokens) // BUDGET_STEP * BUDGET_STEP

    def submit(
        self,
        texts: Sequence[Tokens],
        timings: Timings | None = None,
        *,
        flow: str = OWN_FLOW,
        reserved: bool = False,
    ) -> Coroutine[Any, Any, Vectors]:
        """Have texts computed; see `Batcher.submit`."""
        return self.batcher.submit(self, texts, timings, flow=flow, reserved=reserved)

    def bucket(self, tokens: Tokens) -> tuple[int, int]:
        """Return what a text shares with those that it may run with."""
        return self._number, self.engine.bucket(len(tokens.ids))

    def run(self, jobs: list[Job]) -> list[Vectors | EngineError]:
        """Compute a batch; one that fails is halved until the text at fault stands alone."""
        try:
            vectors = self.engine.run(batch_of([job.tokens for job in jobs]))
            if vectors.ndim != 2 or len(vectors) != len(jobs):
                raise EngineError(f"the engine answered {len(jobs)} texts with an array of {vectors.shape}.")
        except Exception as error:
            logger.warning("a batch of %d failed: %s", len(jobs), error)
            if len(jobs) == 1:
                return [error if isinstance(error, EngineError) else EngineError(str(error))]
            middle = len(jobs) // 2
            return self.run(jobs[:middle]) + self.run(jobs[middle:])
        finite = np.isfinite(vectors.sum(axis=1))
        return [
            row if good else EngineError("The model's answer is not a finite number.")
            for row, good in zip(vectors, finite, strict=True)
        ]

    def measure(self, tokens: int, seconds: float) -> None:
        """Take in what a batch took."""
        # NOTE: a small batch says less about the rate of a full one, and says it lower than it is.
        fullness = min(1.0, tokens / self.budget)
        self._measured += fullness
        self.rate += fullness * max(0.05, 1 / (1 + self._measured)) * (tokens / seconds - self.rate)


def give_way() -> None:
    """Let every other thread of the process run first: whoever feeds the engine must not wait for it."""
    if sys.platform == "linux":  # elsewhere the number would be a process's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), ENGINE_NICENESS)


class Batcher:
    """Feeds every model's engine from all requests, with one thread per engine stream."""

    def __init__(self, streams: int, queue_tokens: int, queue_seconds: float = math.inf) -> None:
        """`queue_tokens` bounds what may wait, and so does what is computed in `queue_seconds`."""
        self.queue_tokens = queue_tokens
        self._queue_seconds = queue_seconds
        self._queue = FairQueue()
        self._lanes: list[Lane] = []
        self._under_way: dict[Identity, Job] = {}  # touched on the event loop alone
        self._changed = threading.Condition()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{n}", daemon=True) for n in range(streams)
        ]

    def open(self, engine: Engine) -> Lane:
        """Return a new lane for an engine."""
        with self._changed:
            lane = Lane(self, engine, len(self._lanes))
            self._lanes.append(lane)
        return lane

    def start(self) -> None:
        """Begin to work; replies are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    @property
    def waiting_tokens(self) -> int:
        """Tokens in the queue."""
        return self._queue.tokens

    # ---- on the event loop -----------------------------------------------------------------------------------

    async def submit(
        self,
        lane: Lane,
        texts: Sequence[Tokens],
        timings: Timings | None = None,
        *,
        flow: str = OWN_FLOW,
        reserved: bool = False,
    ) -> Vectors:
        """Return the vectors of the texts, [len(texts), D], in order; flows are served fairly.

        `reserved` jobs pass the queue and its bound: for the readiness canary alone. Raises QueueFull when too much
        waits, NotReady when closed, EngineError when a text cannot be computed.
        """
        reply = asyncio.get_running_loop().create_future()
        submission = Submission(reply, [None] * len(texts), len(texts), time.perf_counter())
        jobs = self._enqueue(lane, submission, texts, flow, reserved=reserved)
        try:
            vectors: Vectors = await reply
        except BaseException:  # cancelled, or one of its texts failed: nobody wants the others
            self._abandon(submission, jobs)
            raise
        if timings is not None:
            timings.stages["queue"] = submission.started - submission.submitted
            timings.stages["infer"] = time.perf_counter() - submission.started
        return vectors

    def _enqueue(
        self, lane: Lane, submission: Submission, texts: Sequence[Tokens], flow: str, *, reserved: bool
    ) -> list[Job]:
        """Queue the texts that are not under way already, all or none; return the jobs of all."""
        fresh: dict[Identity, Job] = {}
        jobs = []
        weight = self._lanes[0].rate / lane.rate
        for tokens in texts:
            job = Job(tokens, lane.bucket(tokens), flow, [], weight)
            if not reserved:
                job = self._under_way.get(job.identity) or fresh.setdefault(job.identity, job)
            jobs.append(job)
        with self._changed:
            if self._closed:
                raise NotReady("The server is shutting down.", retry_after=1)
            if reserved:
                self._queue.put_reserved(jobs)
            else:
                self.check_room(lane, sum(job.size for job in fresh.values()), flow)
                self._queue.put(list(dict.fromkeys(jobs)))
            self._changed.notify()
        self._under_way.update(fresh)
        for row, job in enumerate(jobs):
            job.waiters.append((submission, row))
        return jobs

    def check_room(self, lane: Lane, needed: int, flow: str = OWN_FLOW, *, about: bool = False) -> None:
        """Raise QueueFull where `needed` more tokens of a flow would not be let in; `about`: by estimate."""
        waiting = self._queue.tokens
        bound = allowed = self._bound(lane) if waiting else self.queue_tokens
        # NOTE: or a key that fills the queue would have every other key refused.
        if self._queue.tokens_of(flow) + needed <= bound * SMALL_SHARE:
            allowed += int(bound * RESERVED_SHARE)
        if waiting + needed <= allowed:
            return
        metrics.REJECTED.inc()
        message = (
            f"The queue is full: {waiting} tokens are waiting, this request needs "
            f"{'about ' if about else ''}{needed}, and at most {bound} may wait. Try again later."
        )
        if needed > self.queue_tokens:
            message = (
                f"This request needs {needed} tokens, and at most {self.queue_tokens} may wait. Send fewer."
            )
        raise QueueFull(message, self.retry_after())

    def _bound(self, lane: Lane) -> int:
        """Return how many tokens may wait when the next are of this lane, the reserve not counted.

        No more than can be computed in time with the reserve.
        """
        seconds_left = self._queue_seconds / (1 + RESERVED_SHARE) - self._waiting_seconds()
        in_time = self._queue.tokens + seconds_left * lane.rate * len(self._threads)
        return max(0, int(min(self.queue_tokens, in_time)))

    def _waiting_seconds(self) -> float:
        """Return how long what waits will take to compute."""
        return self._queue.cost / (self._lanes[0].rate * len(self._threads)) if self._queue.tokens else 0.0

    def retry_after(self) -> int:
        """Return the seconds until what waits now is computed, at least 1."""
        return max(1, math.ceil(self._waiting_seconds()))

    def _abandon(self, submission: Submission, jobs: list[Job]) -> None:
        """Take a submission off its jobs, and jobs that nobody waits for any more off the queue."""
        with self._changed:
            for job in dict.fromkeys(jobs):
                job.waiters = [waiter for waiter in job.waiters if waiter[0] is not submission]
                if not job.waiters and not job.taken:
                    self._queue.drop(job)
                    self._under_way.pop(job.identity, None)

    def _deliver(self, jobs: list[Job], rows: list[Vectors | EngineError], started: float) -> None:
        """Hand rows to those that wait for them; the last row of a submission completes its reply."""
        for job, row in zip(jobs, rows, strict=True):
            if self._under_way.get(job.identity) is job:
                del self._under_way[job.identity]
            for submission, place in job.waiters:
                _fill(submission, place, row, started)

    # ---- on the engines' threads -----------------------------------------------------------------------------

    def _work(self) -> None:
        give_way()
        while jobs := self._next():
            lane = self._lane_of(jobs[0])
            started = time.perf_counter()
            rows = lane.run(jobs)
            self._measure(lane, jobs, time.perf_counter() - started)
            self._call_loop(jobs, rows, started)

    def _next(self) -> list[Job]:
        """Wait for jobs; an empty list means closed, with nothing left to do."""
        with self._changed:
            while not (jobs := self._queue.take(self._budget_for)):
                if self._closed:
                    return []
                self._changed.wait()
            # NOTE: one thread is woken for what arrives, because two would wake for every lone text; the one that
            # leaves something wakes the next.
            if self._queue:
                self._changed.notify()
            metrics.QUEUE_TOKENS.set(self._queue.tokens)
            return jobs

    def _budget_for(self, job: Job) -> int:
        return self._lane_of(job).budget

    def _lane_of(self, job: Job) -> Lane:
        return self._lanes[job.bucket[0]]

    def _measure(self, lane: Lane, jobs: list[Job], seconds: float) -> None:
        tokens = sum(job.size for job in jobs)
        with self._changed:
            lane.measure(tokens, seconds)
        metrics.BATCH_TEXTS.observe(len(jobs))
        metrics.TOKENS_COMPUTED.inc(lane.engine.computed(tokens))
        metrics.TOKENS_USEFUL.inc(tokens)
        metrics.ENGINE_SECONDS.inc(seconds)
        metrics.ENGINE_RATE.set(lane.rate * len(self._threads))

    def _call_loop(self, jobs: list[Job], rows: list[Vectors | EngineError], started: float) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._deliver, jobs, rows, started)
        except RuntimeError:  # the loop is gone: so is everyone who waited on it
            logger.debug("%d answers came after the event loop had closed", len(jobs))

    def close(self) -> None:
        """Refuse new texts, finish the waiting ones, end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()


def _fill(submission: Submission, place: int, row: Vectors | EngineError, started: float) -> None:
    if submission.reply.done():
        return
    submission.started = submission.started or max(started, submission.submitted)
    if isinstance(row, EngineError):
        submission.reply.set_exception(row)
        return
    submission.rows[place] = row
    submission.missing -= 1
    if not submission.missing:
        rows = [row for row in submission.rows if row is not None]
        submission.reply.set_result(rows[0][None] if len(rows) == 1 else np.stack(rows))
