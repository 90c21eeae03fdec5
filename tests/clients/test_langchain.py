"""langchain-openai: its defaults but one on /openai/v1, and what that one does when it is left on."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import openai
import pytest
import tiktoken
from langchain_openai import OpenAIEmbeddings

from server import Server

TEXTS = ["the frog and the pond", "autumn rain", "古池や蛙飛び込む水の音"]


def embeddings(server: Server, base: str = "/openai/v1", **options: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(model=server.model_id, base_url=server.url + base, api_key=server.key, **options)


def test_documents_and_queries_are_the_wires_bits(server: Server) -> None:
    client = embeddings(server, check_embedding_ctx_length=False)
    wire = server.embed(TEXTS, encoding_format="base64").floats()
    assert np.array(client.embed_documents(TEXTS), np.float32).tobytes() == wire.tobytes()
    assert np.array(client.embed_query(TEXTS[0]), np.float32).tobytes() == wire[0].tobytes()
    assert np.array(asyncio.run(client.aembed_documents(TEXTS)), np.float32).tobytes() == wire.tobytes()


@pytest.mark.parametrize("count", [1000, 1001])
def test_its_default_batches_are_answered(server: Server, count: int) -> None:
    client = embeddings(server, check_embedding_ctx_length=False)
    assert client.chunk_size == 1000
    texts = [f"frog {number}" for number in range(count)]
    vectors = np.array(client.embed_documents(texts), np.float32)
    assert vectors.shape == (count, 32)
    wire = server.embed([texts[0], texts[-1]], encoding_format="base64").floats()
    assert vectors[[0, -1]].tobytes() == wire.tobytes()


def test_batches_of_96_fit_the_narrower_path(server: Server) -> None:
    client = embeddings(server, "/v1", check_embedding_ctx_length=False, chunk_size=96)
    assert np.array(client.embed_documents([f"frog {number}" for number in range(97)])).shape == (97, 32)


def test_its_default_batch_is_too_large_for_the_narrower_path(server: Server) -> None:
    client = embeddings(server, "/v1", check_embedding_ctx_length=False)
    with pytest.raises(openai.BadRequestError, match="/openai/v1"):
        client.embed_documents(["frog"] * 97)


def test_token_ids_of_another_vocabulary_are_refused_with_the_way_out(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LangChain's default. The vocabulary that it would fetch is stood in for: every byte is an id near 100,000."""
    ranks = {bytes([byte]): 100_000 + byte for byte in range(256)}
    stand_in = tiktoken.Encoding("stand-in", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: {"cl100k_base": stand_in}[name])
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings(server).embed_documents(TEXTS)
