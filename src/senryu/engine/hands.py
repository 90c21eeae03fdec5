"""Threads that run batches: a crew that takes them from a desk without the interpreter's lock, or Python's own.

Knows engines and the event loop that answers are told on; nothing of queues, requests or order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import addressof
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from numpy.typing import NDArray

from senryu.engine import kernels
from senryu.engine.kernels import BatchTable, Desk, PlanTable, Task
from senryu.types import Batch, Vectors

logger = logging.getLogger(__name__)

# How far an engine's threads stand back, of 19. With two processors and three threads the one that feeds both engines
# is otherwise kept waiting until both have nothing to do; docs/decisions/0005-scheduling.md has what it costs.
ENGINE_NICENESS = 5

# What is told of a batch, on the event loop: its vectors or what failed, and when it began and ended, by
# time.perf_counter.
Tell: TypeAlias = Callable[[Vectors | Exception, float, float], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch as the kernels take it, and where its vectors will be."""

    plan: PlanTable
    table: BatchTable
    arena: NDArray[Any]
    vectors: Vectors
    kept: Any  # what the table points to


@runtime_checkable
class Preparing(Protocol):
    """An engine whose batches a crew runs."""

    def prepare(self, batch: Batch) -> Prepared:
        """Lay a batch out for the kernels. Raises EngineError if it cannot be computed."""

    def release(self, prepared: Prepared) -> None:
        """Take back what a batch was lent."""


class Runs(Protocol):
    """An engine."""

    def run(self, batch: Batch) -> Vectors: ...


def give_way() -> None:
    """Let every other thread of the process run first: whoever feeds the engine must not wait for it."""
    if sys.platform == "linux":  # elsewhere the number would be a process's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), ENGINE_NICENESS)


class Hands:
    """Up to `threads` batches at a time."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="engine", initializer=give_way)
        self._crew: _Crew | None = None

    def open(self) -> None:
        """Begin to work for the running event loop."""
        self._loop = asyncio.get_running_loop()

    def start(self, engine: Runs, batch: Batch, tell: Tell) -> None:
        """Have a batch computed, after those that were started before. Raises EngineError."""
        # NOTE: to ask for the protocol costs more than all else here.
        prepare = getattr(engine, "prepare", None)
        if prepare is None:
            self._pool.submit(self._run, engine, batch, tell)
            return
        if self._crew is None:
            assert self._loop is not None
            self._crew = _Crew(self._threads, self._loop)
        self._crew.post(cast(Preparing, engine), prepare(batch), tell)

    def withdraw(self) -> bool:
        """Take back the batch that was started last by the crew; False where it has begun."""
        return self._crew is not None and self._crew.withdraw()

    def _run(self, engine: Runs, batch: Batch, tell: Tell) -> None:
        assert self._loop is not None
        began = time.perf_counter()
        try:
            result: Vectors | Exception = engine.run(batch)
        except Exception as error:
            result = error
        try:
            self._loop.call_soon_threadsafe(tell, result, began, time.perf_counter())
        except RuntimeError:  # the loop is gone: so is everyone who waited on it
            logger.debug("an answer came after the event loop had closed")

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._pool.shutdown()
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.close()


@dataclass(frozen=True, slots=True)
class _Posted:
    task: Task
    engine: Preparing
    prepared: Prepared
    tell: Tell


class _Crew:
    def __init__(self, threads: int, loop: asyncio.AbstractEventLoop) -> None:
        self._library = kernels.library()
        self._desk = Desk()
        self._bell = self._desk.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop = loop
        self._under_way: list[_Posted] = []
        loop.add_reader(self._bell, self._rung)
        self._threads = [
            threading.Thread(target=self._serve, name=f"crew-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        give_way()
        self._library.serve(self._desk)

    def post(self, engine: Preparing, prepared: Prepared, tell: Tell) -> None:
        task = Task(
            addressof(prepared.plan),
            addressof(prepared.table),
            kernels.address(prepared.arena),
            kernels.address(prepared.vectors),
            has_company=not self._under_way and len(self._threads) > 1,
        )
        self._under_way.append(_Posted(task, engine, prepared, tell))
        # NOTE: the desk is never full but of halves of failed batches, or where a thread stands still in taking one.
        while not self._library.post(self._desk, task):
            time.sleep(0.0001)

    def withdraw(self) -> bool:
        if not self._library.withdraw(self._desk):
            return False
        last = self._under_way.pop()
        last.engine.release(last.prepared)
        return True

    def _rung(self) -> None:
        os.eventfd_read(self._bell)
        self._tell()

    def _tell(self) -> None:
        done, waiting = list[_Posted](), list[_Posted]()
        for one in self._under_way:
            (done if one.task.is_done else waiting).append(one)
        self._under_way = waiting
        for one in done:
            one.engine.release(one.prepared)
            try:
                one.tell(one.prepared.vectors, one.task.began * 1e-9, one.task.ended * 1e-9)
            except Exception:  # NOTE: or nobody would learn of the others that are done
                logger.exception("an answer was not taken")

    def close(self) -> None:
        self._library.dismiss(self._desk)
        for thread in self._threads:
            thread.join()
        try:
            self._loop.call_soon_threadsafe(self._leave)
        except RuntimeError:  # the loop is gone: so is everyone who waited on it
            os.close(self._bell)

    def _leave(self) -> None:
        self._tell()  # NOTE: what was done last rang, but the loop may not have heard it
        self._loop.remove_reader(self._bell)
        os.close(self._bell)
