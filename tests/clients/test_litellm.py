"""litellm as a library: through OpenAI's dialect and through Cohere's."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
import numpy as np
import pytest

from server import Server

TEXTS = ["the frog and the pond", "autumn rain", "古池や蛙飛び込む水の音"]


def floats(answer: Any) -> np.ndarray:
    return np.array([item["embedding"] for item in answer.data], np.float32)


@pytest.mark.parametrize("base", ["/v1", "/openai/v1"])
def test_openais_dialect_gives_the_wires_bits(server: Server, base: str) -> None:
    options = {"model": f"openai/{server.model_id}", "api_base": server.url + base, "api_key": server.key}
    wire = server.embed(TEXTS, encoding_format="base64")
    answer = litellm.embedding(input=TEXTS, **options)
    assert floats(answer).tobytes() == wire.floats().tobytes()
    assert answer.usage.prompt_tokens == wire.json()["usage"]["prompt_tokens"]
    later = asyncio.run(litellm.aembedding(input=TEXTS, **options))
    assert floats(later).tobytes() == wire.floats().tobytes()


def test_2048_texts_are_answered_on_openais_path(server: Server) -> None:
    answer = litellm.embedding(
        model=f"openai/{server.model_id}", input=[f"frog {number}" for number in range(2048)],
        api_base=server.url + "/openai/v1", api_key=server.key,
    )  # fmt: skip
    assert floats(answer).shape == (2048, 32)


def test_coheres_dialect_gives_the_wires_bits(server: Server) -> None:
    answer = litellm.embedding(
        model=f"cohere/{server.model_id}", input=TEXTS, api_base=server.url + "/v2/embed", api_key=server.key,
        input_type="search_document",
    )  # fmt: skip
    assert floats(answer).tobytes() == server.embed(TEXTS, encoding_format="base64").floats().tobytes()
