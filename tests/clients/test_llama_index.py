"""LlamaIndex's embeddings for OpenAI, at its default batches, and for Heroku, from the config vars alone."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from llama_index.embeddings.heroku import HerokuEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding

from server import Server

TEXTS = ["the frog and the pond", "autumn rain", "古池や蛙飛び込む水の音"]


def test_its_default_batch_of_100_is_answered_on_openais_path(server: Server) -> None:
    embedding = OpenAIEmbedding(
        model_name=server.model_id, api_base=server.url + "/openai/v1", api_key=server.key
    )
    assert embedding.embed_batch_size == 100
    texts = [f"frog {number}" for number in range(205)]
    vectors = np.array(embedding.get_text_embedding_batch(texts), np.float32)
    wire = np.concatenate(
        [server.embed(texts[i : i + 96], encoding_format="base64").floats() for i in range(0, 205, 96)]
    )
    assert vectors.tobytes() == wire.tobytes()


def test_a_query_and_the_async_call_are_the_wires_bits(server: Server) -> None:
    embedding = OpenAIEmbedding(
        model_name=server.model_id, api_base=server.url + "/openai/v1", api_key=server.key
    )
    wire = server.embed(TEXTS, encoding_format="base64").floats()
    assert np.array(embedding.get_query_embedding(TEXTS[0]), np.float32).tobytes() == wire[0].tobytes()
    later = asyncio.run(embedding.aget_text_embedding_batch(TEXTS))
    assert np.array(later, np.float32).tobytes() == wire.tobytes()


def test_herokus_own_needs_the_config_vars_and_nothing_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_URL", server.url)
    monkeypatch.setenv("EMBEDDING_KEY", server.key)
    monkeypatch.setenv("EMBEDDING_MODEL_ID", server.model_id)
    embedding = HerokuEmbedding()
    wire = server.embed(TEXTS).embeddings()
    assert embedding.get_text_embedding_batch(TEXTS) == wire
    assert embedding.get_query_embedding(TEXTS[0]) == wire[0]
    assert asyncio.run(embedding.aget_text_embedding_batch(TEXTS)) == wire
