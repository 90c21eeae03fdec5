"""Whose text is next: everything runs once, and nobody waits longer than stated, whatever others queue."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from senryu.fairqueue import FairQueue, Job
from senryu.types import Tokens

BUDGET = 64


def jobs(flow: str, sizes: list[int]) -> list[Job]:
    return [Job(Tokens(array("i", bytes(4 * size))), (0, -(-size // 16) * 16), flow, []) for size in sizes]


def batches_until(queue: FairQueue, wanted: Job, most: int = 10_000) -> int:
    for count in range(1, most):
        if wanted in queue.take(lambda _: BUDGET):
            return count
    raise AssertionError("never taken")


def warmed(queue: FairQueue, backlog: list[tuple[str, list[int]]], batches: int) -> None:
    """Queue a backlog and serve some of it, so that clocks and tags stand anywhere."""
    for flow, sizes in backlog:
        queue.put(jobs(flow, sizes))
    for _ in range(batches):
        queue.take(lambda _: BUDGET)


Sizes = st.lists(st.sampled_from([4, 7, 8, 13, 16, 25, 32, 48, 100]), min_size=1, max_size=30)
Backlog = st.lists(st.tuples(st.sampled_from("abcdef"), Sizes), max_size=20)


@given(Backlog, st.lists(st.integers(0, 300), max_size=30))
def test_everything_is_taken_once_in_batches_of_one_bucket_within_the_budget(
    backlog: list[tuple[str, list[int]]], dropped: list[int]
) -> None:
    queue = FairQueue()
    everything: list[Job] = []
    for flow, sizes in backlog:
        made = jobs(flow, sizes)
        queue.put(made)
        everything += made
    gone = [everything[index] for index in dropped if index < len(everything)]
    for job in gone:
        queue.drop(job)
    taken: list[Job] = []
    while batch := queue.take(lambda _: BUDGET):
        assert len({job.bucket for job in batch}) == 1
        assert len(batch) == 1 or sum(job.size for job in batch) <= BUDGET + batch[-1].size / 2
        taken += batch
    assert queue.tokens == 0
    assert not queue
    assert len(taken) == len(set(map(id, taken)))
    assert set(map(id, taken)) == set(map(id, everything)) - set(map(id, gone))


@given(Backlog, st.integers(0, 40), st.sampled_from([4, 16, 100]))
def test_the_first_text_of_a_key_waits_at_most_a_batch_for_each_key_that_waits(
    backlog: list[tuple[str, list[int]]], served: int, size: int
) -> None:
    queue = FairQueue()
    warmed(queue, backlog, served)
    (mine,) = made = jobs("mine", [size])
    queue.put(made)
    assert batches_until(queue, mine) <= len({flow for flow, _ in backlog}) + 1


@given(st.lists(st.integers(1, 200), max_size=12), st.integers(0, 40), st.sampled_from([4, 16]))
def test_a_small_request_waits_at_most_a_batch_for_each_request_of_its_key(
    counts: list[int], served: int, size: int
) -> None:
    queue = FairQueue()
    warmed(queue, [("key", [32] * count) for count in counts], served)
    (mine,) = made = jobs("key", [size])
    queue.put(made)
    assert batches_until(queue, mine) <= len(counts) + 1


def test_a_big_request_is_not_starved_by_small_ones_that_keep_coming() -> None:
    queue = FairQueue()
    big = jobs("key", [32] * 50)
    queue.put(big)
    taken = 0
    for _ in range(200):
        queue.put(jobs("key", [16]))
        queue.put(jobs("other", [16]))
        tokens = 0
        while tokens < BUDGET and (batch := queue.take(lambda _: BUDGET)):  # an engine of constant speed
            tokens += sum(job.size for job in batch)
            taken += sum(job in big for job in batch)
    assert taken == 50


def test_keys_share_evenly_whatever_they_queue() -> None:
    queue = FairQueue()
    queue.put(jobs("many", [32] * 1000))
    for _ in range(10):
        queue.put(jobs("many", [32] * 10))
    queue.put(jobs("few", [16] * 400))
    tokens = {"many": 0, "few": 0}
    for _ in range(100):
        for job in queue.take(lambda _: BUDGET):
            tokens[job.flow] += job.size
    assert abs(tokens["many"] - tokens["few"]) <= 2 * BUDGET


def test_a_key_that_was_idle_has_saved_nothing_up() -> None:
    queue = FairQueue()
    queue.put(jobs("late", [32]))
    queue.take(lambda _: BUDGET)
    queue.put(jobs("busy", [32] * 1000))
    for _ in range(100):
        queue.take(lambda _: BUDGET)
    queue.put(jobs("late", [32] * 1000))
    share = sum(job.flow == "late" for _ in range(100) for job in queue.take(lambda _: BUDGET))
    assert 80 <= share <= 120


def test_dropping_many_leaves_nothing_behind() -> None:
    queue = FairQueue()
    for _ in range(30):
        made = jobs("key", [8] * 100)
        queue.put(made)
        for job in made:
            queue.drop(job)
    assert queue.tokens == 0
    assert sum(len(heap) for flow in queue._flows.values() for heap in flow.buckets.values()) <= 1000
    assert queue.take(lambda _: BUDGET) == []


def test_reserved_jobs_run_before_all_others(  # the canary of /readyz
) -> None:
    queue = FairQueue()
    queue.put(jobs("key", [8] * 10))
    (canary,) = made = jobs("", [8])
    queue.put_reserved(made)
    assert queue.take(lambda _: BUDGET) == [canary]


def test_a_reserved_job_that_is_dropped_after_it_ran_leaves_the_count_alone() -> None:
    queue = FairQueue()
    queue.put(jobs("key", [8]))
    (canary,) = made = jobs("", [8])
    queue.put_reserved(made)
    assert queue.take(lambda _: BUDGET) == [canary]
    queue.drop(canary)
    assert queue.tokens == 8


def test_flows_share_time_where_a_token_of_one_model_costs_more() -> None:
    queue = FairQueue()
    dear = [Job(Tokens(array("i", bytes(64))), (1, 16), "dear", [], weight=8.0) for _ in range(200)]
    cheap = [Job(Tokens(array("i", bytes(64))), (0, 16), "cheap", []) for _ in range(200)]
    queue.put(dear)
    queue.put(cheap)
    assert queue.cost == 200 * 16 * 9
    taken = [job for _ in range(18) for job in queue.take(lambda _: BUDGET)]
    cost = {flow: sum(job.cost for job in taken if job.flow == flow) for flow in ("dear", "cheap")}
    assert cost["dear"] <= 2 * cost["cheap"] + 8 * BUDGET
    assert cost["cheap"] <= 2 * cost["dear"] + 8 * BUDGET
    while queue.take(lambda _: BUDGET):
        pass
    assert (queue.tokens, queue.cost) == (0, 0)


@given(Backlog, st.integers(0, 5), Sizes)
def test_a_batch_that_is_put_back_was_never_taken(
    backlog: list[tuple[str, list[int]]], served: int, late: list[int]
) -> None:
    queues = FairQueue(), FairQueue()
    for queue in queues:
        warmed(queue, backlog, served)
    left, right = queues
    if batch := left.take(lambda _: BUDGET):
        left.put_back(batch)
    assert left.tokens == right.tokens
    for queue in queues:
        queue.put(jobs("a", late))
    orders = []
    for queue in queues:
        order = []
        while batch := queue.take(lambda _: BUDGET):
            order.append([(job.flow, job.size, job.tag) for job in batch])
        orders.append(order)
    assert orders[0] == orders[1]
