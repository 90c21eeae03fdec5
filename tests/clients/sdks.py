"""One call through each Python SDK: an origin, a key, a model and texts in; float32 vectors out, [B, D].

Knows how each SDK is set up in an app, without retries where it lets one. What it sends and raises is the SDK's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeAlias

import cohere
import litellm
import numpy as np
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.heroku import HerokuEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding
from numpy.typing import NDArray
from openai import AsyncOpenAI, OpenAI

Vectors: TypeAlias = NDArray[np.float32]
Sdk: TypeAlias = Callable[[str, str, str, list[str]], Vectors]
SECONDS = 120


def openai_sync(origin: str, key: str, model: str, texts: list[str]) -> Vectors:
    with OpenAI(base_url=f"{origin}/v1", api_key=key, max_retries=0) as client:
        answer = client.embeddings.create(model=model, input=texts)
    return np.array([item.embedding for item in answer.data], np.float32)


def openai_async(origin: str, key: str, model: str, texts: list[str]) -> Vectors:
    async def ask() -> Vectors:
        async with AsyncOpenAI(base_url=f"{origin}/v1", api_key=key, max_retries=0) as client:
            answer = await client.embeddings.create(model=model, input=texts)
        return np.array([item.embedding for item in answer.data], np.float32)

    return asyncio.run(ask())


def cohere_v1(origin: str, key: str, model: str, texts: list[str]) -> Vectors:
    client = cohere.Client(key, base_url=origin, timeout=SECONDS)
    answer = client.embed(
        model=model, texts=texts, input_type="search_document", batching=False,
        request_options={"max_retries": 0},
    )  # fmt: skip
    return np.array(answer.embeddings, np.float32)


def cohere_v2(origin: str, key: str, model: str, texts: list[str]) -> Vectors:
    client = cohere.ClientV2(key, base_url=origin, timeout=SECONDS)
    answer = client.embed(
        model=model, texts=texts, input_type="search_document", embedding_types=["float"],
        request_options={"max_retries": 0},
    )  # fmt: skip
    return np.array(answer.embeddings.float_, np.float32)


def langchain(origin: str, key: str, model: str, texts: list[str]) -> Vectors:
    embeddings = OpenAIEmbeddings(
        model=model, base_url=f"{origin}/v1", api_key=key, check_embedding_ctx_length=False, max_retries=0
    )
    return np.array(embeddings.embed_documents(texts), np.float32)


def llama_index_openai(origin: str, key: str, model: str, texts: list[str]) -> Vectors:
    embedding = OpenAIEmbedding(model_name=model, api_base=f"{origin}/v1", api_key=key, max_retries=0)
    return np.array(embedding.get_text_embedding_batch(texts), np.float32)


def llama_index_heroku(origin: str, key: str, model: str, texts: list[str]) -> Vectors:
    embedding = HerokuEmbedding(model=model, base_url=origin, api_key=key)
    return np.array(embedding.get_text_embedding_batch(texts), np.float32)


def litellm_openai(origin: str, key: str, model: str, texts: list[str]) -> Vectors:
    # NOTE: no way to forbid its retries: it takes max_retries=0 for none given, and asks three times.
    answer = litellm.embedding(model=f"openai/{model}", input=texts, api_base=f"{origin}/v1", api_key=key)
    return np.array([item["embedding"] for item in answer.data], np.float32)


SDKS: Mapping[str, Sdk] = {
    sdk.__name__: sdk
    for sdk in (
        openai_sync,
        openai_async,
        cohere_v1,
        cohere_v2,
        langchain,
        llama_index_openai,
        llama_index_heroku,
        litellm_openai,
    )
}
