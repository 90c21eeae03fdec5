"""Waiting texts → micro-batches → replies. Speaks in tokens; asks the engines what a text occupies.

One queue for all models; an engine has a lane in it. The queue fills while the engines are busy and is emptied as fast
as they run: no timer, no sleep. What runs next is fairqueue.py's to say, and is decided when a stream is free; where
enough waits, one batch before that, and such a batch is taken back for a shorter text. Identical texts of one flow that
are under way together are computed once. Knows flows by name, not what a key is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

import numpy as np

from senryu import metrics
from senryu.engine import Engine, batch_of
from senryu.engine.hands import Hands, Preparing
from senryu.errors import EngineError, NotReady, QueueFull
from senryu.fairqueue import FairQueue, Identity, Job, Submission
from senryu.pace import Pace
from senryu.types import Timings, Tokens, Vectors

logger = logging.getLogger(__name__)

# Of the queue's bound: what is kept free beyond it for flows that have little waiting, and what little is.
RESERVED_SHARE = 1 / 4
SMALL_SHARE = 1 / 64

# Of a batch, what has to wait before it is made ready while all streams run: less may still become more.
READY_SHARE = 0.6

# Where a batch may lie ready, the texts under way are shared out: a batch for each stream, one that lies ready, and one
# that the event loop answers and takes in anew. But a share is no smaller than this, however few are under way.
MIN_SHARE_TOKENS = 64

# The flow of texts that no key asked for.
OWN_FLOW = ""


class Lane:
    """One engine's way through the queue that all engines share, and what is measured of it."""

    def __init__(self, batcher: Batcher, engine: Engine, number: int) -> None:
        self.batcher = batcher
        self._number = number
        self.engine = engine
        self.prepares = isinstance(engine, Preparing)  # its batches may lie ready, and be taken back
        self.pace = Pace(engine.batch_seconds)

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

    def rows(self, jobs: Sequence[Job], result: Vectors | Exception) -> list[Vectors | EngineError] | None:
        """Return what each job is answered; None for a batch that failed, and must be halved to find the fault."""
        found = result if isinstance(result, Exception) else self._rows_of(result, len(jobs))
        if not isinstance(found, Exception):
            return found
        logger.warning("a batch of %d failed: %s", len(jobs), found)
        if len(jobs) > 1:
            return None
        return [found if isinstance(found, EngineError) else EngineError(str(found))]

    def _rows_of(self, vectors: Vectors, texts: int) -> list[Vectors | EngineError] | Exception:
        shape: tuple[int, ...] = getattr(vectors, "shape", ())
        if len(shape) != 2 or shape[0] != texts or not shape[1]:
            return EngineError(f"the engine answered {texts} texts with an array of {shape}.")
        # NOTE: NaN is unlike itself, and a vector is NaN throughout or not at all.
        return [
            row if first == first else EngineError("The model's answer is not a finite number.")
            for row, first in zip(vectors, vectors[:, 0].tolist(), strict=True)
        ]


class Batcher:
    """Feeds every model's engine from all requests. The event loop is the only caller, but for `open` and `close`."""

    def __init__(self, streams: int, queue_tokens: int, queue_seconds: float = math.inf) -> None:
        """`queue_tokens` bounds what may wait, and so does what is computed in `queue_seconds`."""
        self.queue_tokens = queue_tokens
        self._queue_seconds = queue_seconds
        self._queue = FairQueue()
        self._lanes: list[Lane] = []
        self._opening = threading.Lock()
        self._goes_ahead = False  # whether a batch may lie ready: then it must be possible to take it back
        self._under_way: dict[Identity, Job] = {}
        self._streams = streams
        self._running = 0  # batches that were handed over, and are not back
        self._running_tokens = 0
        self._handing_over = False  # at the end of this turn
        self._ahead: list[Job] | None = None  # the batch beyond those that run, until one is back
        self._closed = False
        self._empty = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hands = Hands(streams)

    def open(self, engine: Engine) -> Lane:
        """Return a new lane for an engine."""
        with self._opening:
            lane = Lane(self, engine, len(self._lanes))
            self._lanes.append(lane)
            self._goes_ahead = all(lane.prepares for lane in self._lanes)
        return lane

    def start(self) -> None:
        """Begin to work; replies are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._hands.open()

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
        """Return the vectors of the texts, [len(texts), D], each of length 1, in order; flows are served fairly.

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
        weight = self._lanes[0].pace.rate / lane.pace.rate
        for tokens in texts:
            job = Job(tokens, lane.bucket(tokens), flow, [], weight)
            if not reserved:
                job = self._under_way.get(job.identity) or fresh.setdefault(job.identity, job)
            jobs.append(job)
        needed = sum([job.size for job in fresh.values()])
        if self._closed:
            raise NotReady("The server is shutting down.", retry_after=1)
        if not reserved:
            self.check_room(lane, needed, flow)
        self._under_way.update(fresh)
        for row, job in enumerate(jobs):
            job.waiters.append((submission, row))
        if reserved:
            self._queue.put_reserved(jobs)
        else:
            # NOTE: behind the waiters, because what nobody waits for is dropped there.
            self._think_again(jobs[0], needed)
            self._queue.put(list(dict.fromkeys(jobs)))
        self._hand_over_soon()
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
        in_time = self._queue.tokens + seconds_left * lane.pace.rate * self._streams
        return max(0, int(min(self.queue_tokens, in_time)))

    def _waiting_seconds(self) -> float:
        """Return how long what waits will take to compute."""
        return self._queue.cost / (self._lanes[0].pace.rate * self._streams) if self._queue.tokens else 0.0

    def retry_after(self) -> int:
        """Return the seconds until what waits now is computed, at least 1."""
        return max(1, math.ceil(self._waiting_seconds()))

    def _abandon(self, submission: Submission, jobs: list[Job]) -> None:
        """Take a submission off its jobs, and jobs that nobody waits for any more off the queue."""
        for job in dict.fromkeys(jobs):
            job.waiters = [waiter for waiter in job.waiters if waiter[0] is not submission]
            if not job.waiters and not job.taken:
                self._drop(job)

    def _drop(self, job: Job) -> None:
        self._queue.drop(job)
        self._under_way.pop(job.identity, None)

    def _deliver(self, jobs: list[Job], rows: list[Vectors | EngineError], started: float) -> None:
        """Hand rows to those that wait for them; the last row of a submission completes its reply."""
        for job, row in zip(jobs, rows, strict=True):
            if self._under_way.get(job.identity) is job:
                del self._under_way[job.identity]
            for submission, place in job.waiters:
                _fill(submission, place, row, started)

    # ---- batches ---------------------------------------------------------------------------------------------

    def _hand_over_soon(self) -> None:
        """Hand over at once where a stream is free, else with what else comes in this turn of the loop."""
        if self._running < self._streams:
            self._hand_over()
        elif not self._handing_over and self._may_hand_over():
            assert self._loop is not None
            self._handing_over = True
            self._loop.call_soon(self._hand_over)

    def _may_hand_over(self) -> bool:
        """Tell whether there is a stream for a batch; or it is the next one, and there is something of it.

        The next batch lies ready before the last one is done, so that no engine waits for the event loop.
        """
        if self._running < self._streams:
            return bool(self._queue)
        return (
            self._running == self._streams
            and self._goes_ahead
            and self._queue.tokens >= READY_SHARE * self._budget(self._lanes[0])
        )

    def _hand_over(self) -> None:
        self._handing_over = False
        while self._may_hand_over():
            jobs = self._queue.take(self._budget_for)
            if not jobs:
                break
            is_ahead = self._running == self._streams
            self._ahead = jobs if self._start(jobs) and is_ahead else None
        metrics.QUEUE_TOKENS.value = self._queue.tokens

    def _start(self, jobs: list[Job]) -> bool:
        """Hand a batch over; one that cannot be is answered at the end of this turn, and False returned."""
        lane = self._lane_of(jobs[0])
        self._count_running(jobs, 1)
        tell = partial(self._finish, lane, jobs, self._running == 1)
        try:
            self._hands.start(lane.engine, batch_of([job.tokens for job in jobs]), tell)
        except Exception as error:
            now = time.perf_counter()
            assert self._loop is not None
            self._loop.call_soon(tell, error, now, now)
            return False
        return True

    def _think_again(self, job: Job, needed: int) -> None:
        """Take back the batch that lies ready where a shorter text has come, which might be before it."""
        ahead = self._ahead
        if (
            ahead
            and job.bucket[1] < ahead[0].bucket[1]
            and 0 < needed < sum([job.size for job in ahead]) / 2
            and ahead[0].tag < math.inf
            and self._hands.withdraw()
        ):
            self._count_running(ahead, -1)
            self._ahead = None
            self._queue.put_back(ahead)
            for unwanted in [one for one in ahead if not one.waiters]:
                self._drop(unwanted)

    def _finish(
        self,
        lane: Lane,
        jobs: list[Job],
        was_alone: bool,
        result: Vectors | Exception,
        began: float,
        ended: float,
    ) -> None:
        self._count_running(jobs, -1)
        self._ahead = None
        rows = lane.rows(jobs, result)
        if rows is None:
            middle = len(jobs) // 2
            self._start(jobs[:middle])
            self._start(jobs[middle:])
            return
        self._hand_over()
        self._deliver(jobs, rows, began)
        if not isinstance(result, Exception):
            assert self._loop is not None
            self._loop.call_soon(self._measure, lane, jobs, ended - began, was_alone)  # behind the answers
        if self._closed and not self._running and not self._queue:
            self._empty.set()

    def _count_running(self, jobs: list[Job], sign: int) -> None:
        self._running += sign
        self._running_tokens += sign * sum([job.size for job in jobs])

    def _budget_for(self, job: Job) -> int:
        return self._budget(self._lane_of(job))

    def _budget(self, lane: Lane) -> int:
        """Return how many tokens the next batch shall have: what the engine does well, or a share of what there is.

        NOTE: with few texts going round, full batches would leave nothing for the other streams meanwhile.
        """
        if not self._goes_ahead:
            return lane.pace.budget
        share = (self._queue.tokens + self._running_tokens) // (self._streams + 2)
        return min(lane.pace.budget, max(MIN_SHARE_TOKENS, share))

    def _lane_of(self, job: Job) -> Lane:
        return self._lanes[job.bucket[0]]

    def _measure(self, lane: Lane, jobs: list[Job], seconds: float, was_alone: bool) -> None:
        tokens = sum([job.size for job in jobs])
        # NOTE: a crew's other threads help a batch that is alone: that is not one stream's pace.
        was_helped = was_alone and lane.prepares and self._streams > 1
        if seconds > 0 and not was_helped:
            lane.pace.measure(tokens, seconds)
        metrics.BATCH_TEXTS.observe(len(jobs))
        metrics.TOKENS_COMPUTED.add(lane.engine.computed(tokens))
        metrics.TOKENS_USEFUL.add(tokens)
        metrics.ENGINE_SECONDS.add(seconds)
        metrics.ENGINE_RATE.value = lane.pace.rate * self._streams

    def close(self) -> None:
        """Refuse new texts, finish the waiting ones, end the threads. From another thread than the event loop's."""
        self._closed = True
        if self._loop is not None and self._loop.is_running():
            with contextlib.suppress(RuntimeError):  # the loop is gone: so is everyone who waited on it
                self._loop.call_soon_threadsafe(self._tell_if_empty)
                while self._loop.is_running() and not self._empty.wait(1):
                    pass
        self._hands.close()

    def _tell_if_empty(self) -> None:
        if not self._running and not self._queue:
            self._empty.set()


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
