"""Batches on threads: the crew's have the engine's own bits, and one that has not begun can be taken back."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from fake_engine import POISON, FakeEngine
from senryu import models
from senryu.engine.hands import Hands
from senryu.engine.kernels import PLACES, InstructionSet, NotComputed
from senryu.engine.native import NativeEngine
from senryu.types import Batch, Precision, Vectors
from test_encoders import FAMILIES, model_of
from test_engine import NATIVE
from test_int8 import quantised
from tiny import make_model

Answer = Vectors | Exception


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> NativeEngine:
    loaded = engines.load(models.load_spec(make_model(tmp_path_factory.mktemp("m") / "m")), "native")
    assert isinstance(loaded, NativeEngine)
    return loaded


def batch(*lengths: int) -> Batch:
    return Batch(np.arange(sum(lengths), dtype=np.int32) % 50 + 5, np.array(lengths, np.int32))


LONG = batch(*[64] * 5000)  # a second and more


class Told:
    """Notes what is told of a batch."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.came = asyncio.Event()

    def __call__(self, answer: Answer, began: float, ended: float) -> None:
        assert began <= ended
        self.answers.append(answer)
        self.came.set()


def run(test: Callable[[Hands], Coroutine[Any, Any, None]], threads: int = 1) -> None:
    async def with_hands() -> None:
        hands = Hands(threads)
        hands.open()
        try:
            async with asyncio.timeout(60):
                await test(hands)
        finally:
            await asyncio.to_thread(hands.close)

    asyncio.run(with_hands())


@pytest.mark.parametrize("of", InstructionSet)
def test_the_crew_of_every_instruction_set_gives_the_same_bits(
    native: NativeEngine, tmp_path: Path, of: InstructionSet
) -> None:
    if of not in engines.instruction_sets():
        pytest.skip(f"the processor has no {of.value}")
    expected = native.run(batch(1, 20, 64)).tobytes()

    async def test(hands: Hands) -> None:
        told = Told()
        with engines.only(of):
            loaded = engines.load(models.load_spec(make_model(tmp_path / "m")), "native")
            hands.start(loaded, batch(1, 20, 64), told)
        await told.came.wait()
        (answer,) = told.answers
        assert isinstance(answer, np.ndarray)
        assert answer.tobytes() == expected

    run(test)


def test_a_crew_gives_the_engines_own_bits_in_whatever_order(native: NativeEngine) -> None:
    batches = [batch(*range(1, 2 + n % 20)) for n in range(300)]

    async def test(hands: Hands) -> None:
        told = [Told() for _ in batches]
        for begin in range(0, len(batches), 50):
            for one, tell in zip(batches[begin : begin + 50], told[begin : begin + 50], strict=True):
                hands.start(native, one, tell)
            for tell in told[begin : begin + 50]:
                await tell.came.wait()
        for one, tell in zip(batches, told, strict=True):
            (answer,) = tell.answers
            assert isinstance(answer, np.ndarray)
            assert answer.tobytes() == native.run(one).tobytes()

    run(test, threads=3)


def test_a_batch_that_outlasts_hundreds_of_others_keeps_its_place(native: NativeEngine) -> None:
    async def test(hands: Hands) -> None:
        longest = batch(*[64] * 20_000)  # some seconds
        long, first, short = Told(), native.run(longest).tobytes(), batch(3)
        exact = native.run(short).tobytes()
        hands.start(native, longest, long)
        for _ in range(PLACES + 10):
            told = Told()
            hands.start(native, short, told)
            await told.came.wait()
            assert [answer.tobytes() for answer in told.answers if isinstance(answer, np.ndarray)] == [exact]
        assert not long.answers  # or this shows nothing
        await long.came.wait()
        assert [answer.tobytes() for answer in long.answers if isinstance(answer, np.ndarray)] == [first]

    run(test, threads=2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", NATIVE)
def test_a_batch_that_runs_alone_has_the_bits_that_it_has_without_help(
    family: str, precision: Precision, tmp_path: Path
) -> None:
    engines.skip_without_kernels(precision)
    try:
        loaded = engines.load(model_of(tmp_path, family), "native", precision)
    except NotComputed as error:
        pytest.skip(str(error))
    batches = [batch(*lengths) for lengths in ([1], [13], [60, 2], [33] * 9, [17] * 30)]

    async def test(hands: Hands) -> None:
        for one in batches * 3:
            told = Told()
            hands.start(loaded, one, told)  # each when the last is done, so each alone
            await told.came.wait()
            (answer,) = told.answers
            assert isinstance(answer, np.ndarray)
            assert answer.tobytes() == loaded.run(one).tobytes()

    run(test, threads=4)


@pytest.mark.parametrize("of", InstructionSet)
@pytest.mark.parametrize("precision", [Precision.F32, Precision.INT8])
def test_a_batch_that_is_helped_all_along_has_the_same_bits_on_every_processor(
    tmp_path: Path, precision: Precision, of: InstructionSet
) -> None:
    if of not in engines.instruction_sets(precision):
        pytest.skip(f"the processor has no {of.value} for {precision.value}")
    spec = models.load_spec(make_model(tmp_path / "m"))
    quantised(spec)
    long = batch(*[64, 3, 17] * 500)

    async def test(hands: Hands) -> None:
        told = Told()
        with engines.only(of):
            loaded = engines.load(spec, "native", precision)
            expected = loaded.run(long).tobytes()
            hands.start(loaded, long, told)
        await told.came.wait()
        (answer,) = told.answers
        assert isinstance(answer, np.ndarray)
        assert answer.tobytes() == expected

    run(test, threads=4)


@pytest.mark.skipif(sys.platform != "linux", reason="a thread's processor time is read from /proc")
def test_threads_that_have_nothing_to_do_help_a_batch_that_runs_alone(native: NativeEngine) -> None:
    async def test(hands: Hands) -> None:
        before, told = processor_times(), Told()
        hands.start(native, LONG, told)
        await told.came.wait()
        spent = [time - before.get(thread, 0) for thread, time in processor_times().items()]
        helped = sorted(spent)[-2:]
        assert helped[0] > 0.1 * helped[1] > 0

    run(test, threads=2)


def processor_times() -> dict[str, int]:
    """Return the ticks that each thread of this process has had so far."""
    times = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            times[task.name] = int(fields[11]) + int(fields[12])
    return times


def test_more_can_lie_ready_than_there_are_places(native: NativeEngine) -> None:
    async def test(hands: Hands) -> None:
        told = [Told() for _ in range(PLACES + 50)]
        for tell in told:
            hands.start(native, batch(64), tell)
        await asyncio.gather(*(tell.came.wait() for tell in told))

    run(test)


def test_only_what_has_not_begun_is_taken_back(native: NativeEngine) -> None:
    async def test(hands: Hands) -> None:
        first, second, third = Told(), Told(), Told()
        hands.start(native, LONG, first)
        hands.start(native, batch(3), second)
        assert hands.withdraw()
        hands.start(native, batch(4, 5), third)
        await third.came.wait()
        assert [len(told.answers) for told in (first, second, third)] == [1, 0, 1]
        assert not hands.withdraw()
        (answer,) = third.answers
        assert isinstance(answer, np.ndarray)
        assert answer.tobytes() == native.run(batch(4, 5)).tobytes()

    run(test)


def test_closing_waits_for_what_was_started(native: NativeEngine) -> None:
    async def test(hands: Hands) -> None:
        told = [Told(), Told()]
        for tell in told:
            hands.start(native, LONG, tell)
        await asyncio.to_thread(hands.close)
        await asyncio.gather(*(tell.came.wait() for tell in told))

    run(test)


def test_what_is_done_while_the_loop_cannot_hear_is_told_before_the_end(native: NativeEngine) -> None:
    async def test(hands: Hands) -> None:
        told = Told()
        hands.start(native, batch(3), told)
        hands.close()
        await told.came.wait()

    run(test)


def test_what_the_kernels_would_read_out_of_bounds_is_refused_at_once(native: NativeEngine) -> None:
    async def test(hands: Hands) -> None:
        with pytest.raises(Exception, match="1 ids from 1048576 to 1048576; the model reads"):
            hands.start(native, Batch(np.array([1 << 20], np.int32), np.array([1], np.int32)), Told())

    run(test)


def test_another_engine_runs_on_pythons_threads_and_cannot_be_taken_back() -> None:
    async def test(hands: Hands) -> None:
        engine, names = FakeEngine(), list[str]()

        class Named(FakeEngine):
            def run(self, batch: Batch) -> Vectors:
                names.append(threading.current_thread().name)
                return engine.run(batch)

        good, bad = Told(), Told()
        hands.start(Named(), batch(2), good)
        hands.start(Named(), Batch(np.array([POISON], np.int32), np.array([1], np.int32)), bad)
        assert not hands.withdraw()
        await asyncio.gather(good.came.wait(), bad.came.wait())
        assert isinstance(good.answers[0], np.ndarray)
        assert isinstance(bad.answers[0], RuntimeError)
        assert all(name.startswith("engine") for name in names)

    run(test)
