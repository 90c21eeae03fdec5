"""Real servers, each started once per session: one on a tiny generated model, others on the default model."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from command import StandServer
from postgres import Postgres
from senryu.config import DEFAULT_MODEL, Paths, Settings
from server import Server, senryu
from tiny import FOUR_PROMPTS, Reference, make_model


def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes run tests: one more than processors, because many tests wait."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL; tests that need one are skipped where there is none."""
    with Postgres.started() as running:
        yield running


@pytest.fixture
def postgresql_url(postgres: Postgres) -> str:
    """The address of a database without a Senryu in it, for one test at a time."""
    return postgres.without("senryu")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A database of its own, as `Store.open` takes it: each test that asks for it runs on both kinds."""
    if request.param == "sqlite":
        return tmp_path / "data" / "senryu.db"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SENRYU_HOME for commands, not there yet, with no settings from outside."""
    for name in os.environ:
        if name.startswith("SENRYU_") or name in ("DATABASE_URL", "PORT"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SENRYU_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def paths(home: Path) -> Paths:
    """Where the commands of a test keep their state."""
    return Paths.from_environ({"SENRYU_HOME": str(home)})


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the commands of a test are set to: each test that asks for it runs on both kinds of database."""
    if request.param == "postgresql":
        monkeypatch.setenv("SENRYU_DATABASE_URL", request.getfixturevalue("postgresql_url"))
    return Settings.load()


@pytest.fixture
def stand() -> Iterator[StandServer]:
    """A stand-in for the server, which answers what the test says."""
    with StandServer.running() as server:
        yield server


@pytest.fixture
def nobody() -> str:
    """An address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


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
