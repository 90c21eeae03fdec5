"""The order in which waiting texts run. Pure data: no threads, no clock of the wall, no engine.

Fair over flows (keys), by start-time fair queueing (Goyal, Vin, Cheng 1996): each flow has a clock that the tokens it
was served advance, weighted by what one costs its model, and the flow whose clock is furthest behind is next. Within
a flow texts run by self-clocked tags (Golestani 1994): a text's tag is its flow's virtual time at arrival plus the
tokens of its submission up to it. So a small submission overtakes a big one, and a tag never rises, so nothing that
comes later delays a text for good. It falls where the same text is asked for again in an earlier place.
The next text chooses the bucket of the batch; what is left of the batch is filled from that bucket, in the same order.
"""

from __future__ import annotations

import heapq
import itertools
import math
from asyncio import Future
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from senryu.types import Tokens, Vectors

Bucket: TypeAlias = tuple[int, int]  # the number of an engine, and the width that it gives a text


@dataclass(slots=True, eq=False)
class Submission:
    """The texts of one request on their way, and the reply that they share."""

    reply: Future[Vectors]
    rows: list[Vectors | None]
    missing: int
    submitted: float  # seconds, by time.perf_counter
    started: float = 0.0


@dataclass(slots=True, eq=False)
class Job:
    """One text to compute, and the places that wait for its vector."""

    tokens: Tokens
    bucket: Bucket  # texts of one bucket may run together
    flow: str
    waiters: list[tuple[Submission, int]]
    weight: float = 1.0  # what a token of it costs, in those of a model that the others are compared with
    taken: bool = False  # by a batch, or dropped
    tag: float = math.inf  # where it stands in its flow; none before it is queued
    arrival: int = 0  # behind how many others; so equal tags have an order

    #: Its tokens.
    size: int = field(init=False)
    #: What it costs: its tokens, weighted.
    cost: float = field(init=False)
    #: What makes two texts the same one: their ids, which are pooled, what computes them, and who asks.
    identity: Identity = field(init=False)

    def __post_init__(self) -> None:
        """Note what is asked for several times."""
        ids = self.tokens.ids
        self.size = len(ids)
        self.cost = self.size * self.weight
        self.identity = self.flow, self.bucket, self.tokens.prompt_length, ids.tobytes()


Identity: TypeAlias = tuple[str, Bucket, int, bytes]
_Place: TypeAlias = tuple[float, int, float, float]  # a flow's clock, turn, virtual time and last tag
_Entry: TypeAlias = "tuple[float, int, Job]"  # tag, arrival, job


@dataclass(slots=True)
class _Flow:
    clock: float
    turn: int = 0  # when it last led a batch: the tie-break, so that equals take turns
    virtual: float = 0.0
    served: float = 0.0  # the tag that was taken last
    tokens: int = 0  # that wait
    buckets: dict[Bucket, list[_Entry]] = field(default_factory=dict)

    def head(self) -> _Entry | None:
        """Return the entry with the least tag, dropped ones forgotten."""
        for bucket in list(self.buckets):
            self._clean(bucket)
        return min((heap[0] for heap in self.buckets.values()), default=None)

    def pop(self, bucket: Bucket, most: float = math.inf) -> Job | None:
        """Take the least tag of a bucket, unless it costs more than `most`; `advance` when that was the last."""
        self._clean(bucket)
        heap = self.buckets.get(bucket)
        if not heap or heap[0][2].size > most:
            return None
        self.served, _, job = heapq.heappop(heap)
        job.taken = True
        self.clock += job.cost
        return job

    def advance(self) -> None:
        """Let virtual time follow what was served.

        NOTE: never past a text that waits: what comes later must not be tagged as if that had been served.
        """
        least = self.head()
        self.virtual = max(self.virtual, min(self.served, least[0]) if least else self.served)

    def _clean(self, bucket: Bucket) -> None:
        heap = self.buckets.get(bucket, [])
        while heap and heap[0][2].taken:
            heapq.heappop(heap)
        if not heap:
            self.buckets.pop(bucket, None)


def _place(flow: _Flow) -> _Place:
    return flow.clock, flow.turn, flow.virtual, flow.served


class FairQueue:
    """Jobs that wait. Not safe between threads: the event loop is the only caller."""

    def __init__(self) -> None:
        self.tokens = 0
        self.cost = 0.0
        self._clock = 0.0
        self._flows: dict[str, _Flow] = {}
        self._reserved: deque[Job] = deque()
        self._arrivals = itertools.count()
        self._turns = itertools.count(1)
        self._dropped = 0
        self._before: tuple[float, dict[str, _Place]] = (0.0, {})  # the last batch was taken

    def __bool__(self) -> bool:
        """Tell whether anything waits."""
        return self.tokens > 0 or bool(self._reserved)

    def put(self, jobs: Sequence[Job]) -> None:
        """Add the jobs of one submission, all of one flow; those that wait already move up to where these would be."""
        if not jobs:
            return
        flow = self._flows.setdefault(jobs[0].flow, _Flow(self._clock))
        if not flow.buckets:
            flow.clock = max(flow.clock, self._clock)
        tag = flow.virtual
        for job in jobs:
            tag += job.cost
            if job.taken or tag >= job.tag:
                continue
            if job.tag == math.inf:
                self._count(job, 1)
            job.tag = tag  # NOTE: an entry with its former tag stays behind, and is passed over once the job is taken
            job.arrival = next(self._arrivals)
            heapq.heappush(flow.buckets.setdefault(job.bucket, []), (tag, job.arrival, job))

    def _count(self, job: Job, sign: int) -> None:
        self.tokens += sign * job.size
        self.cost = self.cost + sign * job.cost if self.tokens else 0.0
        self._flows[job.flow].tokens += sign * job.size

    def tokens_of(self, name: str) -> int:
        """Return the tokens of one flow that wait."""
        flow = self._flows.get(name)
        return flow.tokens if flow else 0

    def put_reserved(self, jobs: Iterable[Job]) -> None:
        """Add jobs that run before all others."""
        self._reserved.extend(jobs)

    def take(self, budget: Callable[[Job], int]) -> list[Job]:
        """Return the next batch: jobs of one bucket, at least one if any waits, of about `budget(the first)` tokens.

        It is over by half of the last job at most.
        """
        if self._reserved:
            first = self._reserved.popleft()
            first.taken = True
            return [first]
        heads = [(flow.clock, flow.turn, flow) for flow in self._flows.values() if flow.head()]
        if not heads:
            return []
        _, _, leader = min(heads, key=lambda head: head[:2])
        head = leader.head()
        assert head is not None
        jobs = self._fill(head[2].bucket, budget(head[2]), leader)
        for job in jobs:
            self._count(job, -1)
        self._forget_idle()
        return jobs

    def _fill(self, bucket: Bucket, budget: int, leader: _Flow) -> list[Job]:
        """Take a job of the leader, then what fits, each from the flow whose clock is furthest behind."""
        able = {name: flow for name, flow in self._flows.items() if bucket in flow.buckets}
        self._before = self._clock, {name: _place(flow) for name, flow in able.items()}
        self._clock = max(self._clock, leader.clock)
        leader.turn = next(self._turns)
        first = leader.pop(bucket)
        assert first is not None
        jobs = [first]
        left = budget - first.size
        order = itertools.count()
        flows = [(flow.clock, next(order), flow) for flow in able.values() if bucket in flow.buckets]
        heapq.heapify(flows)
        while flows and left > 0:
            _, _, flow = flows[0]
            job = flow.pop(bucket, most=2 * left)  # nearer to the budget with it than without
            if job is None:
                heapq.heappop(flows)
                continue
            jobs.append(job)
            left -= job.size
            heapq.heapreplace(flows, (flow.clock, next(order), flow))
        for name in {job.flow for job in jobs}:
            self._flows[name].advance()
        return jobs

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Undo the last `take`, which gave these jobs, none of them reserved."""
        self._clock, places = self._before
        for name, place in places.items():
            flow = self._flows.setdefault(name, _Flow(place[0]))
            flow.clock, flow.turn, flow.virtual, flow.served = place
        for job in jobs:
            job.taken = False
            self._count(job, 1)
            heap = self._flows[job.flow].buckets.setdefault(job.bucket, [])
            heapq.heappush(heap, (job.tag, job.arrival, job))

    def drop(self, job: Job) -> None:
        """Forget a job that waits; its place is cleared away in passing, or all of them when they are many."""
        if job.taken:
            return
        job.taken = True
        if job in self._reserved:
            self._reserved.remove(job)
            return
        self._count(job, -1)
        self._dropped += 1
        if self._dropped > 1000:
            self._dropped = 0
            for flow in self._flows.values():
                for bucket, heap in list(flow.buckets.items()):
                    heap[:] = [entry for entry in heap if not entry[2].taken]
                    heapq.heapify(heap)
                    if not heap:
                        del flow.buckets[bucket]

    def _forget_idle(self) -> None:
        """Forget flows that have nothing waiting and no debt."""
        if len(self._flows) > 64:
            for name, flow in list(self._flows.items()):
                if not flow.tokens and flow.clock <= self._clock:
                    del self._flows[name]
