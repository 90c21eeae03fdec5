"""Every text is answered exactly once, whatever happens to the others."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_engine import NOT_FINITE, POISON, FakeEngine
from senryu.batcher import Batcher, Lane
from senryu.errors import EngineError, NotReady, QueueFull
from senryu.pace import MAX_BATCH_TOKENS
from senryu.types import Batch, Timings, Tokens, Vectors


def texts(*firsts: int, length: int = 3) -> list[Tokens]:
    return [Tokens(array("i", [first] + [0] * (length - 1))) for first in firsts]


@asynccontextmanager
async def running(
    engine: FakeEngine,
    queue_tokens: int = 10_000,
    queue_seconds: float = math.inf,
) -> AsyncIterator[Lane]:
    batcher = Batcher(engine.streams, queue_tokens, queue_seconds)
    batcher.start()
    try:
        yield batcher.open(engine)
    finally:
        engine.open.set()
        await asyncio.to_thread(batcher.close)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


async def held(engine: FakeEngine, lane: Lane) -> asyncio.Task[Any]:
    """Occupy the engine with one text, so that what is submitted next must wait."""
    engine.open.clear()
    engine.began.clear()
    task = asyncio.create_task(lane.submit(texts(99)))
    await asyncio.to_thread(engine.began.wait, 30)
    return task


def test_rows_come_back_in_order_across_buckets() -> None:
    async def test() -> None:
        async with running(FakeEngine()) as lane:
            mixed = [*texts(1, length=9), *texts(2, length=3), *texts(3, length=9), *texts(4, length=1)]
            timings = Timings()
            vectors = await lane.submit(mixed, timings)
            assert vectors[:, :2].tolist() == [[1, 9], [2, 3], [3, 9], [4, 1]]
            assert timings.stages.keys() == {"queue", "infer"}

    run(test)


def test_requests_of_many_callers_share_a_batch() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as lane:
            first = await held(engine, lane)
            waiting = [asyncio.create_task(lane.submit(texts(n))) for n in range(20, 40)]
            await asyncio.sleep(0)
            engine.open.set()
            answers = await asyncio.gather(first, *waiting)
            assert [int(answer[0, 0]) for answer in answers] == [99, *range(20, 40)]
            assert engine.batches == [[99], list(range(20, 40))]

    run(test)


def test_a_batch_stays_within_its_token_budget() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as lane:
            await lane.submit(texts(*range(20, 70), length=100))
            assert 1 < max(len(batch) for batch in engine.batches) <= MAX_BATCH_TOKENS // 100
            await lane.submit(texts(5, length=MAX_BATCH_TOKENS * 2))

    run(test)


def test_small_requests_run_before_big_ones_and_alike_ones_together() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as lane:
            first = await held(engine, lane)
            waiting = [
                asyncio.create_task(lane.submit(texts(n, length=length)))
                for n, length in enumerate((4, 40, 8, 40, 4))
            ]
            await asyncio.sleep(0)
            engine.open.set()
            await asyncio.gather(first, *waiting)
            assert engine.batches[1:] == [[0, 4], [2], [1, 3]]

    run(test)


def test_a_poisoned_text_fails_alone() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as lane:
            first = await held(engine, lane)
            waiting = [asyncio.create_task(lane.submit(texts(n))) for n in range(20)]
            await asyncio.sleep(0)
            engine.open.set()
            answers = await asyncio.gather(first, *waiting, return_exceptions=True)
            failed = [n for n, answer in enumerate(answers[1:]) if isinstance(answer, BaseException)]
            assert failed == [POISON, NOT_FINITE]
            assert all(isinstance(answers[1 + n], EngineError) for n in failed)
            assert [answer[0, 0] for answer in answers if not isinstance(answer, BaseException)] == [
                99, *(n for n in range(20) if n not in failed)
            ]  # fmt: skip

    run(test)


def test_a_request_with_a_failing_text_fails_and_leaves_nothing_behind() -> None:
    async def test() -> None:
        async with running(FakeEngine()) as lane:
            with pytest.raises(EngineError, match="poisoned"):
                await lane.submit([*texts(POISON), *texts(*range(20, 110), length=100)])
            assert lane.batcher.waiting_tokens == 0
            assert (await lane.submit(texts(7)))[0, 0] == 7

    run(test)


def test_over_the_bound_is_refused_with_the_numbers_and_a_time() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine, queue_tokens=30) as lane:
            first = await held(engine, lane)
            waiting = asyncio.create_task(lane.submit(texts(*range(8))))
            await asyncio.sleep(0)
            assert lane.batcher.waiting_tokens == 24
            with pytest.raises(
                QueueFull, match="24 tokens are waiting, this request needs 9, and at most 30"
            ) as full:
                await lane.submit(texts(51, 52, 53))
            assert full.value.retry_after >= 1
            engine.open.set()
            await asyncio.gather(first, waiting)
            assert (await lane.submit(texts(1, 2, 3)))[:, 0].tolist() == [1, 2, 3]

    run(test)


def test_a_key_with_little_waiting_is_let_in_where_another_has_filled_the_queue() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine, queue_tokens=640) as lane:
            first = await held(engine, lane)
            many = asyncio.create_task(lane.submit(texts(*range(100, 310)), flow="bulk"))
            await asyncio.sleep(0)
            assert lane.batcher.waiting_tokens == 630
            few = []
            for n in range(3):
                few.append(asyncio.create_task(lane.submit(texts(n, n + 40), flow=f"key {n}")))
                await asyncio.sleep(0)
            assert lane.batcher.waiting_tokens == 648
            for flow in ("bulk", "key 0"):  # one has much waiting, the other has had its little
                with pytest.raises(QueueFull):
                    await lane.submit(texts(20, 21, 22), flow=flow)
            engine.open.set()
            await asyncio.gather(first, many, *few)

    run(test)


def test_no_more_is_let_in_than_can_be_computed_in_time() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(
            engine, queue_seconds=0.01
        ) as lane:  # 100 tokens at the rate that is assumed at first
            first = await held(engine, lane)
            alone = asyncio.create_task(
                lane.submit(texts(*range(100, 150)))
            )  # 150: something is always let in
            await asyncio.sleep(0)
            assert lane.batcher.waiting_tokens == 150
            with pytest.raises(QueueFull, match="at most 80 may wait"):
                await lane.submit(texts(60, 61))
            engine.open.set()
            await asyncio.gather(first, alone)

    run(test)


def test_a_query_that_stands_in_a_bulk_of_its_key_does_not_wait_for_the_bulk() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as lane:
            first = await held(engine, lane)
            bulk = asyncio.create_task(lane.submit(texts(*range(100, 1000))))
            await asyncio.sleep(0)
            query = asyncio.create_task(lane.submit(texts(999)))
            await asyncio.sleep(0)
            assert lane.batcher.waiting_tokens == 2700
            engine.open.set()
            assert (await query)[:, 0].tolist() == [999]
            assert (await bulk)[:, 0].tolist() == list(range(100, 1000))
            await first
            assert 999 in engine.batches[1]
            assert sum(999 in batch for batch in engine.batches) == 1

    run(test)


def test_however_many_keys_the_queue_has_an_end() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine, queue_tokens=640) as lane:
            first = await held(engine, lane)
            let_in = [asyncio.create_task(lane.submit(texts(n), flow=f"key {n}")) for n in range(20, 320)]
            await asyncio.sleep(0)
            assert lane.batcher.waiting_tokens == 798  # of at most 640 and a quarter
            engine.open.set()
            answers = await asyncio.gather(first, *let_in, return_exceptions=True)
            assert sum(isinstance(answer, QueueFull) for answer in answers) == 300 - 798 // 3

    run(test)


def test_a_reserved_text_passes_a_full_queue() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine, queue_tokens=8) as lane:
            first = await held(engine, lane)
            waiting = asyncio.create_task(lane.submit(texts(1, 2)))
            await asyncio.sleep(0)
            canary = asyncio.create_task(lane.submit(texts(3), reserved=True))
            await asyncio.sleep(0)
            engine.open.set()
            await asyncio.gather(first, waiting, canary)
            assert engine.batches == [[99], [3], [1, 2]]

    run(test)


@pytest.mark.parametrize(
    ("wanted", "other"), [((1, 2, 3), 4), ((1, 2), 1)], ids=["own texts", "a shared text"]
)
def test_a_cancelled_request_frees_the_texts_that_it_alone_waited_for(
    wanted: tuple[int, ...], other: int
) -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as lane:
            first = await held(engine, lane)
            gone = asyncio.create_task(lane.submit(texts(*wanted)))
            stays = asyncio.create_task(lane.submit(texts(other)))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.wait([gone])
            assert lane.batcher.waiting_tokens == 3
            engine.open.set()
            await asyncio.gather(first, stays)
            assert engine.batches == [[99], [other]]

    run(test)


def test_closing_finishes_what_waits_and_refuses_what_comes() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as lane:
            first = await held(engine, lane)
            waiting = asyncio.create_task(lane.submit(texts(1, 2, 3)))
            await asyncio.sleep(0)
            closing = asyncio.create_task(asyncio.to_thread(lane.batcher.close))
            while not lane.batcher._closed:
                await asyncio.sleep(0.001)
            with pytest.raises(NotReady):
                await lane.submit(texts(4))
            engine.open.set()
            await asyncio.gather(first, waiting, closing)
            assert waiting.result()[:, 0].tolist() == [1, 2, 3]

    run(test)


Requests = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 30), st.integers(1, 60)), min_size=1, max_size=12),
        st.integers(0, 3),  # turns of the loop to wait before it is sent
        st.booleans(),  # the client hangs up
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(Requests, st.integers(40, 2000))
def test_every_request_is_resolved_exactly_once(requests: list[Any], queue_tokens: int) -> None:
    async def one(lane: Lane, inputs: list[tuple[int, int]], turns: int, hangs_up: bool) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        wanted = [tokens for first, length in inputs for tokens in texts(first, length=length)]
        submitting = asyncio.create_task(lane.submit(wanted))
        if hangs_up:
            await asyncio.sleep(0)
            submitting.cancel()
        try:
            vectors = await submitting
        except (QueueFull, EngineError, asyncio.CancelledError) as error:
            return type(error).__name__
        assert vectors[:, :2].tolist() == [list(pair) for pair in inputs]
        return "answered"

    async def test() -> None:
        async with running(FakeEngine(), queue_tokens) as lane:
            outcomes = await asyncio.gather(*(one(lane, *request) for request in requests))
            for outcome, (inputs, _, hangs_up) in zip(outcomes, requests, strict=True):
                faulty = any(first in (POISON, NOT_FINITE) for first, _ in inputs)
                assert not (faulty and outcome == "answered")
                assert hangs_up or outcome != "CancelledError"
                assert faulty or outcome != "EngineError"
            assert lane.batcher.waiting_tokens == 0

    run(test)


def test_identical_texts_of_one_key_are_computed_once() -> None:
    async def test() -> None:
        engine = FakeEngine()
        async with running(engine) as lane:
            first = await held(engine, lane)
            waiting = [
                asyncio.create_task(lane.submit(texts(*wanted), flow=flow))
                for wanted, flow in (((1, 2, 1), "a"), ((2, 1), "a"), ((1,), "b"))
            ]
            await asyncio.sleep(0)
            assert lane.batcher.waiting_tokens == 3 * 3
            engine.open.set()
            answers = await asyncio.gather(first, *waiting)
            assert [answer[:, 0].tolist() for answer in answers[1:]] == [[1, 2, 1], [2, 1], [1]]
            assert sorted(engine.batches[1]) == [1, 1, 2]  # once for each key
            await lane.submit(texts(1), flow="a")
            assert engine.batches[2:] == [[1]]  # nothing is kept

    run(test)


def test_an_engine_that_loses_rows_is_an_error_and_not_a_silence() -> None:
    class Losing(FakeEngine):
        def run(self, batch: Batch) -> Vectors:
            return super().run(batch)[:-1]

    async def test() -> None:
        async with running(Losing()) as lane:
            with pytest.raises(EngineError, match="1 texts"):
                await lane.submit(texts(1))

    run(test)


def test_a_canary_that_fails_leaves_the_queue_as_it_was() -> None:
    async def test() -> None:
        async with running(FakeEngine()) as lane:
            for _ in range(3):
                with pytest.raises(EngineError):
                    await lane.submit(texts(POISON), reserved=True)
            assert lane.batcher.waiting_tokens == 0

    run(test)


def test_what_is_no_number_is_an_error_of_its_own_and_harms_nothing_beside_it() -> None:
    async def test() -> None:
        engine = FakeEngine()
        engine.open.clear()
        async with running(engine) as lane:
            firsts = (20, 21, NOT_FINITE, 22)
            tasks = [asyncio.create_task(lane.submit(texts(first))) for first in firsts]
            tasks.append(asyncio.create_task(lane.submit(texts(NOT_FINITE), flow="another")))
            await asyncio.sleep(0.01)
            engine.open.set()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.batches[0] == [20]
        assert sorted(engine.batches[1]) == sorted([*firsts[1:], NOT_FINITE])
        errors = found.pop(4), found.pop(2)
        assert all(isinstance(error, EngineError) for error in errors)
        assert errors[0] is not errors[1]  # raised twice, one would gather both tracebacks
        for number, (first, size) in enumerate([(20, 1), (21, 4), (22, 4)]):
            assert found[number].tolist() == [[first, 3, size]]  # type: ignore[union-attr]

    run(test)
