"""One text gives the same bits, whichever SDK asks and whichever dialect answers."""

from __future__ import annotations

import pytest
from sdks import SDKS

from server import Server

TEXTS = ["the frog and the pond", "autumn rain", "古池や蛙飛び込む水の音", " two  spaces\n", "x" * 2048]


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("count", [1, 5, 96])
def test_an_sdk_returns_the_bits_of_the_wire(server: Server, sdk: str, count: int) -> None:
    texts = (TEXTS if count > 1 else TEXTS[:1]) + [f"snow {number}" for number in range(count - len(TEXTS))]
    if sdk == "llama_index_openai":  # it replaces newlines by spaces before it asks
        texts = [text.replace("\n", " ") for text in texts]
    vectors = SDKS[sdk](server.url, server.key, server.model_id, texts)
    assert vectors.tobytes() == server.embed(texts, encoding_format="base64").floats().tobytes()
