"""Several models side by side: each answers as it would alone, and none waits for another to be loaded."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_engine import FakeEngine
from senryu.batcher import Batcher
from senryu.errors import ModelError, ModelNotFound, NotReady, SettingError
from senryu.models import ModelSpec, load_spec
from senryu.shelf import MIB, MOST_WAITING, Model, Shelf, fingerprint
from senryu.tokenizer import Tokenizer
from senryu.types import Batch, Tokens, Vectors


def failing(batch: Batch) -> Vectors:
    raise RuntimeError("not a number")


class Loader:
    """Loads fake engines behind a real tokenizer; a model in `broken` fails, one in `held` waits for `go`."""

    def __init__(self, spec: ModelSpec, batcher: Batcher) -> None:
        self.specs = {name: replace(spec, id=name) for name in ("one", "two", "three")}
        self.batcher = batcher
        self.loads: list[str] = []
        self.broken: set[str] = set()
        self.fault: Exception = ModelError(f"{spec.folder}/model.safetensors: is cut short")
        self.held: set[str] = set()
        self.wrong: set[str] = set()
        self.go = threading.Event()

    def __call__(self, spec: ModelSpec) -> Model:
        self.loads.append(spec.id)
        if spec.id in self.held:
            assert self.go.wait(30)
        if spec.id in self.broken:
            raise self.fault
        engine = FakeEngine()
        if spec.id in self.wrong:
            engine.run = failing  # type: ignore[method-assign]
        lane = self.batcher.open(engine)
        return Model(spec, Tokenizer(spec), engine, lane, fingerprint(spec, engine))


@pytest.fixture
def run(tiny_folder: Path) -> Callable[..., None]:
    spec = load_spec(tiny_folder)

    def run(test: Callable[[Shelf, Loader], Coroutine[Any, Any, None]], **options: Any) -> None:
        async def running() -> None:
            loader = Loader(spec, Batcher(1, 10_000))
            starts = [loader.specs[name] for name in options.pop("starts", ("one",))]
            shelf = Shelf(loader.batcher, starts, loader, loader.specs.get, **options)
            await shelf.start()
            try:
                shelf.look_for(["two", "three", "four"])
                await test(shelf, loader)
            finally:
                loader.go.set()
                await asyncio.to_thread(shelf.close)

        asyncio.run(asyncio.wait_for(running(), 60))

    return run


def vector_of(model: Model) -> Coroutine[Any, Any, Any]:
    return model.lane.submit([Tokens(array("i", [7, 8, 9]))])


def test_a_model_is_loaded_once_when_it_is_first_asked_for(run: Callable[..., None]) -> None:
    async def test(shelf: Shelf, loader: Loader) -> None:
        assert loader.loads == ["one"]
        assert list(shelf.specs) == ["one", "two", "three"]
        models = await asyncio.gather(*(shelf.get("two") for _ in range(20)))
        assert loader.loads == ["one", "two"]
        assert len(set(map(id, models))) == 1
        assert (await vector_of(models[0]))[0, :2].tolist() == [7, 3]
        assert await shelf.get("two") is models[0]

    run(test)


def test_nobody_waits_for_the_loading_of_another_model(run: Callable[..., None]) -> None:
    async def test(shelf: Shelf, loader: Loader) -> None:
        loader.held.add("two")
        slow = asyncio.create_task(shelf.get("two"))
        while loader.loads != ["one", "two"]:
            await asyncio.sleep(0)
        for _ in range(10):
            await vector_of(await shelf.get("one"))
        await shelf.check()
        assert not slow.done()
        loader.go.set()
        assert (await vector_of(await slow))[0, 0] == 7

    run(test)


def test_one_who_hangs_up_does_not_stop_a_load_that_others_wait_for(run: Callable[..., None]) -> None:
    async def test(shelf: Shelf, loader: Loader) -> None:
        loader.held.add("two")
        first, second = (asyncio.create_task(shelf.get("two")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        loader.go.set()
        assert (await second).spec.id == "two"

    run(test)


@pytest.mark.parametrize("fault", [None, MemoryError("model.safetensors: is cut short")])
def test_a_model_that_cannot_be_loaded_is_told_of_and_not_tried_at_every_request(
    run: Callable[..., None], caplog: pytest.LogCaptureFixture, fault: Exception | None
) -> None:
    async def test(shelf: Shelf, loader: Loader) -> None:
        loader.broken.add("two")
        loader.fault = fault or loader.fault
        raised = set()
        for _ in range(3):
            with pytest.raises(NotReady, match="'two' cannot be loaded") as caught:
                await shelf.get("two")
            raised.add(caught.value)
            assert "safetensors" not in str(caught.value)
            assert caught.value.retry_after == 30
        assert len(raised) == 3  # one that is raised again and again would keep what each request held
        assert loader.loads == ["one", "two"]
        assert "model.safetensors: is cut short" in caplog.text
        await vector_of(await shelf.get("one"))
        await shelf.check()

    run(test)


def test_a_model_that_is_loaded_and_answers_wrongly_is_not_loaded_again(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(shelf: Shelf, loader: Loader) -> None:
        loader.wrong.add("two")
        loader.broken.add("three")
        monkeypatch.setattr("senryu.shelf.RETRY_SECONDS", 0)
        for name in ("two", "two", "three", "three"):
            with pytest.raises(NotReady, match=f"'{name}' cannot be loaded"):
                await shelf.get(name)
        assert loader.loads == ["one", "two", "three", "three"]
        await shelf.check()

    run(test)


def test_what_does_not_fit_in_memory_is_refused_with_the_figures(run: Callable[..., None]) -> None:
    async def test(shelf: Shelf, loader: Loader) -> None:
        await shelf.get("two")
        with pytest.raises(
            NotReady, match=r"'three' needs about 40 MiB, and 20 of the 100 MiB .* --memory-mib"
        ):
            await shelf.get("three")
        assert loader.loads == ["one", "two"]

    run(test, needs=lambda _: 40 * MIB, memory_bytes=100 * MIB)


def test_models_of_the_start_that_do_not_fit_are_refused(run: Callable[..., None]) -> None:
    async def test(shelf: Shelf, loader: Loader) -> None:
        raise AssertionError("started")

    with pytest.raises(SettingError, match="'two' needs about 40 MiB, and 10 of the 50 MiB"):
        run(test, starts=("one", "two"), needs=lambda _: 40 * MIB, memory_bytes=50 * MIB)
    with pytest.raises(SettingError, match="two of the models are called 'one'"):
        run(test, starts=("one", "one"))


def test_few_wait_for_a_model_to_be_loaded(run: Callable[..., None]) -> None:
    async def test(shelf: Shelf, loader: Loader) -> None:
        loader.held.add("two")
        waiting = [asyncio.create_task(shelf.get("two")) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(NotReady, match="is being loaded"):
            await shelf.get("two")
        loader.go.set()
        assert {model.spec.id for model in await asyncio.gather(*waiting)} == {"two"}

    run(test)


def test_a_model_that_nobody_has_is_not_found(run: Callable[..., None]) -> None:
    async def test(shelf: Shelf, loader: Loader) -> None:
        assert shelf.names("four") == ()
        with pytest.raises(ModelNotFound):
            await shelf.get("four")

    run(test)


def test_a_model_whose_vectors_can_be_cut_has_a_fingerprint_of_its_own(tiny_folder: Path) -> None:
    spec = load_spec(tiny_folder)
    whole, cut = replace(spec, matryoshka=()), replace(spec, matryoshka=(8,))
    assert fingerprint(whole, FakeEngine()) != fingerprint(cut, FakeEngine())
