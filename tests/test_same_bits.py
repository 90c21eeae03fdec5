"""One text through every dialect, path and encoding gives the same bits."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from server import Server
from tiny import FOUR_PROMPTS, Reference

TEXTS = ["The old pond.", "a frog leaps in", "the sound of water " * 30, "古池 🐸", " \n"]
OPENAI_PATHS = ("/v1/embeddings", "/embeddings", "/openai/v1/embeddings")
Bits = NDArray[np.float32]
Ask = Callable[[Server, str], Bits]


def from_base64(rows: list[str]) -> Bits:
    return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in rows])


def from_numbers(rows: list[list[float]]) -> Bits:
    return np.array(rows, np.float32)


def by_openai(path: str, encoding: str) -> Ask:
    def ask(server: Server, task: str) -> Bits:
        body = {"model": server.model_id, "input": TEXTS, "input_type": task, "encoding_format": encoding}
        rows = server.post(body, path).embeddings()
        return from_base64(rows) if encoding == "base64" else from_numbers(rows)

    return ask


def by_cohere(version: int, wanted: list[str] | None, *, parts: bool = False) -> Ask:
    def ask(server: Server, task: str) -> Bits:
        inputs = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
        given: dict[str, Any] = {"inputs": inputs} if parts else {"texts": TEXTS}
        body = {"model": server.model_id, "input_type": task, "embedding_types": wanted} | given
        answer = server.post(body, f"/v{version}/embed")
        assert answer.status == 200, answer.body
        found = answer.json()["embeddings"]
        if wanted and "base64" in wanted:
            return from_base64(found["base64"])
        return from_numbers(found["float"] if isinstance(found, dict) else found)

    return ask


@pytest.fixture(scope="module", params=["auto", "openvino"])
def served(
    request: pytest.FixtureRequest,
    tiny_server: Server,
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """Servers of the tiny model, by the engine that is taken by itself and by another."""
    if request.param == "auto":
        yield tiny_server
        return
    env = {"SENRYU_ENGINE": request.param}
    with Server(tmp_path_factory.mktemp(request.param) / "home", tiny_folder, env=env) as server:
        yield server


WAYS = {
    **{f"{path} {how}": by_openai(path, how) for path in OPENAI_PATHS for how in ("raw", "float", "base64")},
    "v1": by_cohere(1, None),
    "v1 by type": by_cohere(1, ["float"]),
    "v2": by_cohere(2, None),
    "v2 all types": by_cohere(2, ["int8", "float", "uint8", "binary", "ubinary"]),
    "v2 base64": by_cohere(2, ["base64", "float"]),
    "v2 inputs": by_cohere(2, None, parts=True),
}


@pytest.mark.parametrize("task", FOUR_PROMPTS)
@pytest.mark.parametrize("way", WAYS)
def test_a_text_has_the_same_bits_by_every_way(served: Server, way: str, task: str) -> None:
    expected = served.embed(TEXTS, input_type=task, encoding_format="base64").floats()
    assert WAYS[way](served, task).tobytes() == expected.tobytes()


@pytest.mark.parametrize("task", FOUR_PROMPTS)
@pytest.mark.parametrize("path", OPENAI_PATHS)
def test_a_text_and_its_token_ids_have_the_same_bits(
    served: Server, tiny_reference: Reference, path: str, task: str
) -> None:
    texts = TEXTS[:4]
    ids = [tiny_reference.all_ids(text)[1:-1] for text in texts]
    asked = {"model": served.model_id, "input_type": task, "encoding_format": "base64"}
    by_text = served.post({**asked, "input": texts}, path)
    by_ids = served.post({**asked, "input": ids}, path)
    assert by_ids.embeddings() == by_text.embeddings()
    assert by_ids.json()["usage"] == by_text.json()["usage"]
    for header in ("x-senryu-truncated", "x-senryu-unknown-tokens"):
        assert by_ids.headers[header] == by_text.headers[header] != "0"
    (alone,) = served.post({**asked, "input": ids[1]}, path).embeddings()
    assert alone == by_text.embeddings()[1]


def test_many_texts_in_one_request_have_the_bits_of_few(served: Server) -> None:
    texts = [f"frog {number} " + "pond " * (number % 60) for number in range(700)]
    body = {"model": served.model_id, "input": texts, "encoding_format": "base64"}
    together = served.post(body, "/openai/v1/embeddings").embeddings()
    few = [served.embed(texts[start : start + 50], encoding_format="base64") for start in range(0, 700, 50)]
    assert together == [row for answer in few for row in answer.embeddings()]
    raw = served.post({**body, "encoding_format": "float"}, "/openai/v1/embeddings").embeddings()
    assert from_numbers(raw).tobytes() == from_base64(together).tobytes()
