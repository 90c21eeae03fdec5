"""openai-python, sync and async, on /v1 and on /openai/v1: what it returns, and what it raises."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from server import Server
from tiny import make_model, vocabulary

TEXTS = ["the frog and the pond", "autumn rain", "古池や蛙飛び込む水の音"]
VOCABULARY = vocabulary()
TYPES = {"float": "<f4", "int8": "i1", "uint8": "u1", "binary": "i1", "ubinary": "u1"}
PATHS = ("", "/v1", "/openai/v1")


@pytest.fixture(params=PATHS)
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    """The SDK on each base path, without retries."""
    with OpenAI(base_url=server.url + request.param, api_key=server.key, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def hosted(server: Server) -> Iterator[OpenAI]:
    """The SDK on the path with the hosted service's limits."""
    with OpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def wide(server: Server) -> Iterator[OpenAI]:
    """The SDK on the path with OpenAI's limits."""
    with OpenAI(base_url=server.url + "/openai/v1", api_key=server.key, max_retries=0) as sdk:
        yield sdk


def as_floats(answer: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], np.float32)


def test_the_default_encoding_gives_the_wires_bits(client: OpenAI, server: Server) -> None:
    answer = client.embeddings.create(model=server.model_id, input=TEXTS)
    raw = server.embed(TEXTS, encoding_format="base64")
    assert as_floats(answer).tobytes() == raw.floats().tobytes()
    assert answer.model == server.model_id
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == raw.json()["usage"]["prompt_tokens"]


def test_floats_written_as_decimals_are_the_same_bits(client: OpenAI, server: Server) -> None:
    plain = client.embeddings.create(model=server.model_id, input=TEXTS, encoding_format="float")
    packed = client.embeddings.create(model=server.model_id, input=TEXTS, encoding_format="base64")
    decoded = [np.frombuffer(base64.b64decode(item.embedding), "<f4") for item in packed.data]
    assert as_floats(plain).tobytes() == np.stack(decoded).tobytes()


def test_the_async_client_gives_the_same_bits(server: Server) -> None:
    async def ask() -> openai.types.CreateEmbeddingResponse:
        async with AsyncOpenAI(base_url=server.url + "/v1", api_key=server.key, max_retries=0) as sdk:
            return await sdk.embeddings.create(model=server.model_id, input=TEXTS)

    wire = server.embed(TEXTS, encoding_format="base64").floats()
    assert as_floats(asyncio.run(ask())).tobytes() == wire.tobytes()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_every_type_arrives_in_both_encodings(
    hosted: OpenAI, server: Server, kind: str, encoding: str
) -> None:
    answer = hosted.embeddings.create(
        model=server.model_id, input=TEXTS, encoding_format=encoding, extra_body={"embedding_type": kind}
    )
    wire = server.embed(TEXTS, encoding_format="raw", embedding_type=kind).embeddings()
    for item, expected in zip(answer.data, wire, strict=True):
        given: Any = item.embedding
        if encoding == "base64":
            given = np.frombuffer(base64.b64decode(given), TYPES[kind]).tolist()
        assert np.array(given, TYPES[kind]).tolist() == np.array(expected, TYPES[kind]).tolist()


def test_a_packed_type_without_a_named_encoding_is_misread_by_the_sdk(hosted: OpenAI, server: Server) -> None:
    """The pitfall that docs/clients.md names: the SDK asks for base64 and reads any bytes as float32."""
    answer = hosted.embeddings.create(
        model=server.model_id, input="frog", extra_body={"embedding_type": "int8"}
    )
    (codes,) = server.embed("frog", embedding_type="int8").embeddings()
    assert len(answer.data[0].embedding) == len(codes) // 4
    assert np.array(answer.data[0].embedding, np.float32).tobytes() == np.array(codes, np.int8).tobytes()


@pytest.mark.parametrize("count", [1, 96])
def test_a_batch_up_to_the_limit_is_answered(hosted: OpenAI, server: Server, count: int) -> None:
    texts = [f"frog {number}" for number in range(count)]
    vectors = as_floats(hosted.embeddings.create(model=server.model_id, input=texts))
    assert vectors.tobytes() == server.embed(texts, encoding_format="base64").floats().tobytes()


def test_97_texts_are_refused_with_the_path_that_takes_them(hosted: OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="97") as refusal:
        hosted.embeddings.create(model=server.model_id, input=["frog"] * 97)
    assert "96" in refusal.value.message
    assert "/openai/v1" in refusal.value.message


@pytest.mark.parametrize("count", [97, 2048])
def test_openais_limits_hold_on_their_path(wide: OpenAI, server: Server, count: int) -> None:
    texts = [f"frog {number}" for number in range(count)]
    vectors = as_floats(wide.embeddings.create(model=server.model_id, input=texts))
    alone = server.embed([texts[0], texts[-1]], encoding_format="base64").floats()
    assert len(vectors) == count
    assert vectors[[0, -1]].tobytes() == alone.tobytes()


def test_2049_texts_are_refused_on_openais_path(wide: OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="2049"):
        wide.embeddings.create(model=server.model_id, input=["frog"] * 2049)


def test_more_than_300000_tokens_are_refused_on_openais_path(tmp_path: Path) -> None:
    model = make_model(tmp_path / "long-reader", max_seq_length=512)
    with (
        Server(tmp_path / "home", model) as server,
        OpenAI(base_url=server.url + "/openai/v1", api_key=server.key, max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="300000"),
    ):
        client.embeddings.create(model=server.model_id, input=["frog " * 600] * 586)


def test_a_text_over_2048_characters_is_cut_on_openais_path_alone(
    wide: OpenAI, hosted: OpenAI, server: Server
) -> None:
    text = "frog " * 1000
    answer = wide.embeddings.create(model=server.model_id, input=text)
    assert answer.usage.prompt_tokens == 64
    with pytest.raises(openai.BadRequestError, match="5000"):
        hosted.embeddings.create(model=server.model_id, input=text)


def test_token_ids_mean_the_models_own_vocabulary(client: OpenAI, server: Server) -> None:
    ids = [[VOCABULARY[word] for word in text.split()] for text in TEXTS[:2]]
    wire = server.embed(TEXTS[:2], encoding_format="base64").floats()
    many = client.embeddings.create(model=server.model_id, input=ids)
    one = client.embeddings.create(model=server.model_id, input=ids[0])
    assert as_floats(many).tobytes() == wire.tobytes()
    assert as_floats(one).tobytes() == wire[:1].tobytes()


def test_a_token_id_of_another_vocabulary_is_refused_with_the_way_out(client: OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model=server.model_id, input=[[15339, 1917]])


@pytest.mark.parametrize("base", ["/v1", "/openai/v1"])
def test_the_models_are_listed(server: Server, base: str) -> None:
    with OpenAI(base_url=server.url + base, api_key=server.key, max_retries=0) as sdk:
        listed = [model.id for model in sdk.models.list()]
        assert listed == [server.model_id]
        assert sdk.models.retrieve(server.model_id).id == server.model_id
        with pytest.raises(openai.PermissionDeniedError, match=server.model_id):
            sdk.models.retrieve("another-model")


def test_the_request_id_is_the_servers(hosted: OpenAI, server: Server) -> None:
    raw = hosted.embeddings.with_raw_response.create(
        model=server.model_id, input="frog", extra_headers={"x-request-id": "frog-1"}
    )
    assert raw.request_id == "frog-1"


def test_an_error_says_its_type_code_and_field(wide: OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        wide.embeddings.create(model=server.model_id, input="frog", dimensions=7)
    assert (error.value.type, error.value.param) == ("invalid_request_error", "dimensions")
    with pytest.raises(openai.AuthenticationError) as error:
        wide.with_options(api_key="inf-wrong").embeddings.create(model=server.model_id, input="frog")
    assert error.value.code == "invalid_api_key"


@pytest.mark.parametrize("dimensions", [8, 16, 32])
def test_a_declared_size_is_honoured(client: OpenAI, server: Server, dimensions: int) -> None:
    answer = client.embeddings.create(model=server.model_id, input=TEXTS, dimensions=dimensions, user="u-1")
    wire = server.embed(TEXTS, encoding_format="base64", dimensions=dimensions).floats()
    assert as_floats(answer).tobytes() == wire.tobytes()
    assert as_floats(answer).shape == (3, dimensions)
