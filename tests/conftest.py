"""Real servers, each started once per session: one on a tiny generated model, others on the default model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from senryu.config import DEFAULT_MODEL, Paths
from server import Server, senryu
from tiny import FOUR_PROMPTS, Reference, make_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with four prompts and two Matryoshka sizes below its 32 dimensions."""
    folder = tmp_path_factory.mktemp("models") / "tiny-four-prompts"
    return make_model(folder, prompts=FOUR_PROMPTS, matryoshka=[16, 8])


@pytest.fixture(scope="session")
def tiny_reference(tiny_folder: Path) -> Reference:
    """What the tiny model must answer."""
    return Reference(tiny_folder)


@pytest.fixture(scope="session")
def tiny_server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the tiny model, f32."""
    with Server(tmp_path_factory.mktemp("tiny") / "home", tiny_folder) as server:
        yield server


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of pulled models with the default model in it; pulled on the first run of all."""
    given = os.environ.get("SENRYU_TEST_MODELS")
    cache = Path(given).absolute() if given else Paths.from_environ(os.environ).models
    cache.mkdir(parents=True, exist_ok=True)
    home = tmp_path_factory.mktemp("pull")
    (home / "models").symlink_to(cache, target_is_directory=True)
    senryu(home, "pull", DEFAULT_MODEL)
    return cache


@pytest.fixture(scope="session")
def default_server(
    model_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Server]]:
    """Servers of the default model by precision, each started when it is first asked for."""
    servers: dict[str, Server] = {}
    with ExitStack() as running:

        def start(precision: str) -> Server:
            if precision not in servers:
                home = tmp_path_factory.mktemp(precision) / "home"
                env = {"SENRYU_PRECISION": precision}
                server = Server(home, DEFAULT_MODEL, models=model_cache, env=env)
                servers[precision] = running.enter_context(server)
            return servers[precision]

        yield start


@pytest.fixture(scope="session")
def server(default_server: Callable[[str], Server]) -> Server:
    """A server of the default model, f32."""
    return default_server("f32")
