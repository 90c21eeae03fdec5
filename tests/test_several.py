"""Several models in one server, over HTTP: each answers as it would alone, under load from both."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from server import Server, environment, program, senryu
from tiny import make_model

ALIAS = "EMBEDDING_TINY_WIDE"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of other sizes and other weights."""
    root = tmp_path_factory.mktemp("several")
    return [
        make_model(root / "tiny-narrow", seed=1),
        make_model(root / "tiny-wide", hidden=64, layers=3, seed=2),
    ]


@pytest.fixture(scope="module")
def both(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    args = ("--model", str(folders[1]), "--queue-tokens", "20000")
    with Server(tmp_path_factory.mktemp("both") / "home", folders[0], args=args) as server:
        yield server


def key_of(server: Server, alias: str) -> str:
    return senryu(server.home, "config", f"{alias}_KEY").strip()


def ask(server: Server, model: str, key: str, texts: list[str]) -> NDArray[np.float32]:
    body = {"model": model, "input": texts, "encoding_format": "base64"}
    return server.post(body, key=key).floats()


TEXTS = [" ".join(["the", "old", "pond", "a", "frog"][: 1 + n % 5] * (1 + n % 7)) for n in range(48)]


def alone(folder: Path, home: Path) -> NDArray[np.float32]:
    with Server(home, folder) as server:
        return np.concatenate([ask(server, folder.name, server.key, [text]) for text in TEXTS])


def test_under_load_from_both_each_model_has_the_bits_that_it_has_alone(
    both: Server, folders: list[Path], tmp_path: Path
) -> None:
    expected = {folder.name: alone(folder, tmp_path / folder.name) for folder in folders}
    assert expected["tiny-narrow"].shape[1] != expected["tiny-wide"].shape[1]
    keys = {"tiny-narrow": both.key, "tiny-wide": key_of(both, ALIAS)}

    def worker(number: int) -> int:
        model = list(keys)[number % 2]
        for start in range(0, len(TEXTS), 1 + number):
            part = slice(start, start + 1 + number)
            assert np.array_equal(ask(both, model, keys[model], TEXTS[part]), expected[model][part])
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(worker, range(8))) == list(range(8))


def test_each_model_has_a_resource_and_a_key_of_its_own(both: Server) -> None:
    variables = json.loads(senryu(both.home, "config", "--json"))
    assert variables["EMBEDDING_MODEL_ID"] == "tiny-narrow"
    assert variables[f"{ALIAS}_MODEL_ID"] == "tiny-wide"
    assert variables[f"{ALIAS}_URL"] == both.url
    refused = both.post({"model": "tiny-wide", "input": "a"})
    assert refused.status == 403
    assert "tiny-narrow" in refused.json()["error"]["message"]
    listed = both.get("/v1/models", key=key_of(both, ALIAS)).json()
    assert [model["id"] for model in listed["data"]] == ["tiny-wide"]
    available = both.get("/available-models", key=None).json()
    assert [model["model_id"] for model in available] == ["tiny-narrow", "tiny-wide"]


def test_a_model_that_is_provisioned_while_the_server_runs_is_loaded_when_it_is_asked_for(
    folders: list[Path], model_cache: Path, tmp_path: Path
) -> None:
    with Server(tmp_path / "home", folders[0], models=model_cache) as server:
        senryu(server.home, "models", "create", "all-minilm-l6-v2", "--as", "SEARCH")
        resource = json.loads(senryu(server.home, "models", "list", "--json"))[-1]
        key = key_of(server, "SEARCH")
        deadline = time.monotonic() + 30
        while (known := server.get(f"/models/{resource['id']}", key=key)).status == 401:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert (known.json()["ready"], known.json()["dimensions"]) == ("No", 384)
        assert ask(server, "all-minilm-l6-v2", key, ["hello world"]).shape == (1, 384)
        ready = server.get(f"/models/{resource['id']}", key=key).json()
        assert (ready["ready"], ready["precision"]) == ("Yes", "f32")
        assert server.get("/readyz", key=None).status == 200


def test_models_that_do_not_fit_in_memory_are_refused_at_the_start(
    folders: list[Path], tmp_path: Path
) -> None:
    command = [*program(), "serve", "--port", "0", "--memory-mib", "1", "--model", str(folders[0])]
    done = subprocess.run(
        command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "'tiny-narrow' needs about" in done.stderr
    assert "of the 1 MiB" in done.stderr
    assert "--memory-mib" in done.stderr
