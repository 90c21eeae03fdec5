"""The batch that lies ready while all streams run: taken back for a shorter text, and nothing lost or done twice."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_engine import POISON, FakeEngine
from senryu.batcher import Batcher, Lane
from senryu.engine.hands import Hands, Prepared, Tell
from senryu.errors import EngineError
from senryu.pace import FIRST_RATE
from senryu.types import Batch, Tokens, Vectors

UNFIT = 15  # a text that cannot even be laid out
LONG, SHORT = 90, 3  # of two buckets; one LONG is enough to lie ready


class ReadyEngine(FakeEngine):
    """An engine whose batches may lie ready."""

    def prepare(self, batch: Batch) -> Prepared:
        raise NotImplementedError

    def release(self, prepared: Prepared) -> None:
        raise NotImplementedError


class ByHand:
    """Hands that end a batch only when they are told to, and then begin the next."""

    def __init__(self, streams: int) -> None:
        self._streams = streams
        self.running: list[tuple[FakeEngine, Batch, Tell]] = []
        self.ready: list[tuple[FakeEngine, Batch, Tell]] = []

    def open(self) -> None:
        pass

    def start(self, engine: FakeEngine, batch: Batch, tell: Tell) -> None:
        if UNFIT in batch.input_ids:
            raise EngineError("cannot be laid out")
        self.ready.append((engine, batch, tell))
        self.begin()

    def withdraw(self) -> bool:
        return bool(self.ready) and self.ready.pop() is not None

    def end(self, number: int = 0) -> None:
        engine, batch, tell = self.running.pop(number % len(self.running))
        self.begin()
        try:
            result: Vectors | Exception = engine.run(batch)
        except RuntimeError as error:
            result = error
        tell(result, 1.0, 2.0)

    def begin(self) -> None:
        while self.ready and len(self.running) < self._streams:
            self.running.append(self.ready.pop(0))

    def close(self) -> None:
        pass


Test: TypeAlias = Callable[[Lane, ByHand], Coroutine[Any, Any, None]]


def run(test: Test, streams: int = 1) -> None:
    async def with_hands() -> None:
        batcher, hands = Batcher(streams, 100_000), ByHand(streams)
        batcher._hands = cast(Hands, hands)
        batcher.start()
        lane = batcher.open(ReadyEngine())
        async with asyncio.timeout(30):
            await test(lane, hands)
        assert not batcher._queue
        assert batcher._queue.cost == 0.0
        assert (batcher._running, batcher._running_tokens) == (0, 0)
        assert (batcher._ahead, batcher._under_way) == (None, {})

    asyncio.run(with_hands())


def text(first: int, length: int) -> list[Tokens]:
    return [Tokens(array("i", [first] + [0] * (length - 1)))]


def ask(lane: Lane, first: int, length: int, flow: str = "a") -> asyncio.Task[Vectors]:
    return ask_all(lane, [(first, length)], flow)


def ask_all(lane: Lane, texts: list[tuple[int, int]], flow: str) -> asyncio.Task[Vectors]:
    return asyncio.create_task(lane.submit([one for each in texts for one in text(*each)], flow=flow))


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def drain(hands: ByHand) -> None:
    await turns()
    while hands.running:
        hands.end()
        await turns()


def order(lane: Lane) -> list[list[int]]:
    assert isinstance(lane.engine, FakeEngine)
    return lane.engine.batches


@pytest.mark.parametrize(
    ("length", "expected"),
    [(SHORT, [[20], [22], [21]]), (LONG, [[20], [21], [22]])],
    ids=["shorter", "equal"],
)
def test_what_lies_ready_is_taken_back_for_a_shorter_text_alone(
    length: int, expected: list[list[int]]
) -> None:
    async def test(lane: Lane, hands: ByHand) -> None:
        tasks = [ask(lane, 20, LONG)]
        await turns()
        tasks.append(ask(lane, 21, LONG * 2))
        await turns()
        assert [len(hands.running), len(hands.ready)] == [1, 1]
        tasks.append(ask(lane, 22, length, flow="b"))
        await drain(hands)
        assert [int(task.result()[0, 0]) for task in tasks] == [20, 21, 22]
        assert order(lane) == expected

    run(test)


@pytest.mark.parametrize(
    ("texts", "expected"), [(16, [6, 6, 4]), (60, [15, 15, 15, 11, 4])], ids=["few", "many"]
)
def test_few_texts_are_shared_out_among_the_streams(texts: int, expected: list[int]) -> None:
    async def test(lane: Lane, hands: ByHand) -> None:
        asked = ask_all(lane, [(20 + number, 10) for number in range(texts)], flow="a")
        await drain(hands)
        assert [int(row[0]) for row in asked.result()] == list(range(20, 20 + texts))
        assert [len(batch) for batch in order(lane)] == expected

    run(test, streams=2)


@pytest.mark.parametrize(
    ("streams", "together", "is_measured"),
    [(1, 1, True), (2, 1, False), (2, 2, True)],
    ids=["one stream", "alone, so perhaps helped", "two batches"],
)
def test_one_streams_pace_is_not_taken_of_a_batch_that_others_may_have_helped(
    streams: int, together: int, is_measured: bool
) -> None:
    async def test(lane: Lane, hands: ByHand) -> None:
        tasks = [ask(lane, 20 + number, LONG * 2) for number in range(together)]
        await drain(hands)
        await asyncio.gather(*tasks)
        await turns()
        assert (lane.pace.rate != FIRST_RATE) == is_measured

    run(test, streams)


def test_what_lies_ready_is_not_taken_back_for_a_text_of_its_own_bucket() -> None:
    async def test(lane: Lane, hands: ByHand) -> None:
        tasks = [ask(lane, 20, LONG)]
        await turns()
        tasks += [ask(lane, first, 20) for first in (21, 22, 23)]
        await turns()
        tasks.append(ask(lane, 24, 20, flow="b"))
        await drain(hands)
        assert [int(task.result()[0, 0]) for task in tasks] == [20, 21, 22, 23, 24]
        assert order(lane) == [[20], [21, 22, 23], [24]]

    run(test)


def test_a_batch_that_cannot_be_laid_out_is_not_taken_for_the_one_that_lies_ready() -> None:
    async def test(lane: Lane, hands: ByHand) -> None:
        first = ask(lane, 20, LONG)
        await turns()
        hands.ready, hands.running = hands.running, []  # posted, and not begun yet
        unfit = ask(lane, UNFIT, LONG * 2)
        await asyncio.sleep(0)
        short = ask(lane, 22, SHORT)
        await asyncio.sleep(0)
        hands.begin()
        await drain(hands)
        assert [int(task.result()[0, 0]) for task in (first, short)] == [20, 22]
        assert isinstance(unfit.exception(), EngineError)

    run(test)


async def one_runs_and_one_that_lies_ready_is_given_up(lane: Lane) -> asyncio.Task[Vectors]:
    running = ask(lane, 20, LONG)
    await turns()
    given_up = ask(lane, 21, LONG * 2)
    await turns()
    given_up.cancel()
    await turns()
    return running


def test_a_text_that_nobody_waits_for_any_more_is_not_computed_once_it_is_taken_back() -> None:
    async def test(lane: Lane, hands: ByHand) -> None:
        first = await one_runs_and_one_that_lies_ready_is_given_up(lane)
        short = ask(lane, 22, SHORT)
        await drain(hands)
        assert [int(task.result()[0, 0]) for task in (first, short)] == [20, 22]
        assert order(lane) == [[20], [22]]

    run(test)


def test_what_was_given_up_and_is_asked_for_again_beside_a_shorter_text_is_computed() -> None:
    async def test(lane: Lane, hands: ByHand) -> None:
        first = await one_runs_and_one_that_lies_ready_is_given_up(lane)
        both = ask_all(lane, [(22, SHORT), (21, LONG * 2)], "a")
        await drain(hands)
        assert first.result()[0, 0] == 20
        assert both.done()
        assert both.result()[:, 0].tolist() == [22, 21]

    run(test)


TEXT = st.tuples(st.sampled_from([POISON, UNFIT, *range(20, 30)]), st.sampled_from([SHORT, 40, LONG, 150]))
PUT = st.tuples(st.lists(TEXT, min_size=1, max_size=4), st.sampled_from("ab"))
OTHER = st.tuples(st.sampled_from(["end", "cancel", "turn", "turn"]), st.integers(0, 30))


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(PUT, PUT, OTHER), max_size=60), st.integers(1, 3))
def test_every_text_is_answered_once_and_rightly(steps: list[tuple[Any, Any]], streams: int) -> None:
    async def test(lane: Lane, hands: ByHand) -> None:
        asked: list[tuple[list[tuple[int, int]], asyncio.Task[Vectors]]] = []
        for what, how in steps:
            if isinstance(what, list):
                asked.append((what, ask_all(lane, what, how)))
            elif what == "end" and hands.running:
                hands.end(how)
            elif what == "cancel" and asked:
                asked[how % len(asked)][1].cancel()
            else:
                await asyncio.sleep(0)
        await drain(hands)
        for texts, task in asked:
            assert task.done()
            if task.cancelled():
                continue
            if {POISON, UNFIT}.intersection(first for first, _ in texts):
                assert isinstance(task.exception(), EngineError)
            else:
                assert task.result()[:, :2].tolist() == [list(each) for each in texts]

    run(test, streams)


@given(st.integers(1, 3), st.integers(0, 6), st.integers(1, 20), st.sampled_from([SHORT, LONG]))
def test_a_text_of_another_key_waits_for_one_batch_more_than_there_are_keys(
    streams: int, others: int, each: int, length: int
) -> None:
    async def test(lane: Lane, hands: ByHand) -> None:
        for flow in range(others + 1):
            for number in range(each):
                ask(lane, 100 * (flow + 1) + number, LONG * 2, flow=f"bulk {flow}")
        await turns()
        began = len(hands.running)
        task = ask(lane, 20, length, flow="other")
        await turns()
        behind = 0
        while hands.running and not any(20 in batch.input_ids for _, batch, _ in hands.running):
            hands.end()
            behind += 1
            await turns()
        assert behind <= began + others + 2  # those that run, one for each key, and the one that lay ready
        await drain(hands)
        assert task.result()[0, 0] == 20

    run(test, streams)
