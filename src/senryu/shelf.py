"""The models that are served: those of the start, and others that are loaded when first asked for.

Knows what a model costs in memory and that its vectors come back as they should; loads one at a time, on a thread of
its own, so that nobody who asks for another model waits. Nothing of requests, keys or where models come from.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from senryu import metrics
from senryu.batcher import Batcher, Lane
from senryu.engine import Engine
from senryu.errors import EngineError, ModelNotFound, NotReady, SenryuError, SettingError, SetupError
from senryu.models import ModelSpec, file_hashes
from senryu.tokenizer import Tokenizer
from senryu.types import Task, Truncate, Vectors

logger = logging.getLogger(__name__)

CANARY = "The frog jumps into the old pond."
CANARY_SECONDS = 10.0

# Requests that may wait for one model to be loaded; each holds its texts.
MOST_WAITING = 128

# A model that could not be loaded is not tried again for so long; one that could and answers wrongly never is.
RETRY_SECONDS = 30

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is loaded, and the stages that are its own."""

    spec: ModelSpec
    tokenizer: Tokenizer
    engine: Engine
    lane: Lane
    fingerprint: str


class Shelf:
    """The models that are served, by id; those of the start come first."""

    def __init__(
        self,
        batcher: Batcher,
        specs: Iterable[ModelSpec],
        load: Callable[[ModelSpec], Model],
        find: Callable[[str], ModelSpec | None] = lambda _: None,
        *,
        needs: Callable[[ModelSpec], int] = lambda _: 0,
        memory_bytes: int | None = None,
    ) -> None:
        """Load the models of the start. Raises SetupError for one that cannot be served.

        `find` returns the description of another model if it can be loaded when asked for; `needs` what a model takes
        of the `memory_bytes` that all may.
        """
        self._batcher = batcher
        self._load = load
        self._find = find
        self._needs = needs
        self._memory_bytes = memory_bytes
        self.specs: dict[str, ModelSpec] = {}
        self.loaded: dict[str, Model] = {}
        self._canaries: list[Canary] = []
        self._loading: dict[str, asyncio.Task[Model]] = {}
        self._waiting: dict[str, int] = {}
        self._failed: dict[str, tuple[float, str]] = {}  # until when, and what is said
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        for spec in specs:
            if spec.id in self.specs:
                raise SettingError(f"two of the models are called {spec.id!r}; rename the folder of one.")
            self._check_memory(spec)
            self.specs[spec.id] = spec
            model = load(spec)
            self._add(model, Canary(model))

    @property
    def first(self) -> Model:
        """The model that stands for the server where one must."""
        return next(iter(self.loaded.values()))

    def look_for(self, model_ids: Iterable[str]) -> None:
        """Take up models that can be loaded when asked for. Reads files."""
        for model_id in model_ids:
            try:
                if model_id not in self.specs and (spec := self._find(model_id)):
                    self.specs = {**self.specs, spec.id: spec}  # NOTE: another thread may be reading it
            except SetupError as error:
                logger.warning("the model %s cannot be served: %s", model_id, error)

    def names(self, model_id: str) -> tuple[str, ...]:
        """Return the names that a model answers to; none if it is not served."""
        spec = self.specs.get(model_id)
        return spec.names if spec else ()

    async def get(self, model_id: str) -> Model:
        """Return a model, loaded if need be. Raises ModelNotFound, NotReady if it cannot be loaded."""
        return self.loaded.get(model_id) or await self._loaded(model_id)

    async def _loaded(self, model_id: str) -> Model:
        if model_id not in self.specs:
            raise ModelNotFound(f"The model '{model_id}' is not being served now.")
        if known := self._failed.get(model_id):
            if time.monotonic() < known[0]:
                raise NotReady(
                    known[1], RETRY_SECONDS
                )  # NOTE: a new one: raised again, one keeps every frame
            del self._failed[model_id]
        waiting = self._waiting.get(model_id, 0)
        if waiting >= MOST_WAITING:
            raise NotReady(f"The model '{model_id}' is being loaded, and {waiting} requests wait for it.", 1)
        if model_id not in self._loading:
            task = self._loading[model_id] = asyncio.create_task(self._load_now(self.specs[model_id]))
            task.add_done_callback(lambda _: self._loading.pop(model_id))
        self._waiting[model_id] = waiting + 1
        try:
            return await asyncio.shield(self._loading[model_id])
        finally:
            self._waiting[model_id] -= 1

    async def _load_now(self, spec: ModelSpec) -> Model:
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        pause: float = RETRY_SECONDS
        try:
            self._check_memory(spec)
            model = await loop.run_in_executor(self._thread, self._load, spec)
            pause = (
                math.inf
            )  # NOTE: it holds memory from here on, and loaded again it would hold as much again
            canary = Canary(model)
            await canary.check()
        except Exception as error:
            trace = None if isinstance(error, SenryuError) else error
            logger.error("the model %s cannot be loaded: %s", spec.id, error, exc_info=trace)
            why = str(error) if isinstance(error, SettingError) else "The log says why."
            said = f"The model '{spec.id}' cannot be loaded. {why}"
            self._failed[spec.id] = time.monotonic() + pause, said
            raise NotReady(said, RETRY_SECONDS) from error
        self._add(model, canary)
        logger.info("the model %s is loaded, in %.1f s", spec.id, time.perf_counter() - started)
        return model

    def _check_memory(self, spec: ModelSpec) -> None:
        """Raise SettingError where a model does not fit beside those that are loaded."""
        if self._memory_bytes is None:
            return
        free = self._memory_bytes - sum(self._needs(model.spec) for model in self.loaded.values())
        needed = self._needs(spec)
        if needed > free:
            raise SettingError(
                f"The model '{spec.id}' needs about {needed // MIB} MiB, and {max(0, free) // MIB} of the "
                f"{self._memory_bytes // MIB} MiB for models are free; serve fewer, or raise --memory-mib."
            )

    async def check(self) -> None:
        """Raise NotReady, saying why, unless every model that is loaded answers as it should."""
        for canary in self._canaries:
            await canary.check()

    def _add(self, model: Model, canary: Canary) -> None:
        self.loaded[model.spec.id] = model
        self._canaries.append(canary)
        _tell_what_computes(model)

    async def start(self) -> None:
        """Start the engines' queue, and prove that each engine answers. Raises NotReady if one does not."""
        self._batcher.start()
        await self.check()

    def close(self) -> None:
        """Finish what waits, and give back the threads."""
        self._batcher.close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        for model in self.loaded.values():
            model.tokenizer.close()


def _tell_what_computes(model: Model) -> None:
    name, engine = model.spec.id, model.engine
    metrics.ENGINE_INFO.labels(name, engine.name, engine.precision.value).set(1)
    if loss := engine.loss:
        for statistic in ("mean", "p1", "min"):
            metrics.PRECISION_COSINE.labels(name, statistic).set(getattr(loss, f"cosine_{statistic}"))


def fingerprint(spec: ModelSpec, engine: Engine) -> str:
    """Return 16 hex digits over everything that decides the bits of a vector: equal ones promise equal bits."""
    decisive = {
        "files": dict(file_hashes(spec)),
        "prompts": dict(spec.prompts),
        "pooling": spec.pooling,
        "max_seq_length": spec.max_seq_length,
        "engine": engine.signature,
    }
    if spec.matryoshka:  # their vectors are cut when they have length 1 already, which rounds them otherwise
        decisive["cut"] = "normalised"
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


class Canary:
    """A known text whose vector must come back, finite and bit for bit as at the start.

    It has a place of its own in the engine's queue, so a saturated server is still ready; and many probes at once
    share one run.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tokens = model.tokenizer.encode_now([CANARY], Task.SEARCH_DOCUMENT, Truncate.END)
        self._expected: Vectors | None = None
        self._running: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raise NotReady, saying why, unless the canary comes back in time and as it should."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            await asyncio.wait_for(asyncio.shield(self._running), CANARY_SECONDS)
        except TimeoutError:
            raise NotReady(f"The engine has not answered for {CANARY_SECONDS:.0f} s.", 10) from None

    async def _run(self) -> None:
        try:
            vector = await self._model.lane.submit(self._tokens, reserved=True)
        except EngineError as error:
            logger.warning("the canary text failed: %s", error)
            raise NotReady("The engine fails on the canary text. The log says why.", 10) from None
        if self._expected is None:
            self._expected = vector
        if self._model.engine.reproducible and not np.array_equal(vector, self._expected):
            raise NotReady("The engine answers the canary text with other bits than at the start.", 10)
