"""cohere-python, Client on /v1/embed and ClientV2 on /v2/embed, sync and async."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import cohere
import numpy as np
import pytest
from cohere import EmbedInput, TextEmbedContent

from server import Server

TEXTS = ["the frog and the pond", "autumn rain", "古池や蛙飛び込む水の音"]
TYPES = ("float", "int8", "uint8", "binary", "ubinary")
TASKS = ("search_document", "search_query", "classification", "clustering")
ONCE: Any = {"max_retries": 0}


@pytest.fixture
def v1(server: Server) -> cohere.Client:
    """The older client."""
    return cohere.Client(server.key, base_url=server.url)


@pytest.fixture
def v2(server: Server) -> cohere.ClientV2:
    """The newer client."""
    return cohere.ClientV2(server.key, base_url=server.url)


def by_type(embeddings: Any) -> dict[str, list[Any]]:
    """Return what an answer holds, under the wire's names."""
    given = embeddings.model_dump() if hasattr(embeddings, "model_dump") else embeddings.dict()
    return {name.strip("_"): rows for name, rows in given.items() if rows is not None}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("version", [1, 2])
def test_a_type_alone_is_what_the_wire_gives(server: Server, kind: Any, version: int) -> None:
    client = (
        cohere.Client(server.key, base_url=server.url)
        if version == 1
        else cohere.ClientV2(server.key, base_url=server.url)
    )
    answer = client.embed(
        model=server.model_id, texts=TEXTS, input_type="search_document", embedding_types=[kind]
    )
    wire = server.embed(TEXTS, embedding_type=kind).embeddings()
    assert by_type(answer.embeddings) == {kind: wire}


def test_all_types_come_in_one_answer(v2: cohere.ClientV2, server: Server) -> None:
    answer = v2.embed(
        model=server.model_id, texts=TEXTS, input_type="search_document", embedding_types=[*TYPES, "base64"]
    )
    given = by_type(answer.embeddings)
    assert given.keys() == {*TYPES, "base64"}
    for kind in TYPES:
        assert given[kind] == server.embed(TEXTS, embedding_type=kind).embeddings()
    packed = [np.frombuffer(base64.b64decode(text), "<f4").tolist() for text in given["base64"]]
    assert packed == np.array(given["float"], np.float32).tolist()


def test_several_types_of_v1_too(v1: cohere.Client, server: Server) -> None:
    answer = v1.embed(
        model=server.model_id, texts=TEXTS, input_type="search_document", embedding_types=["float", "int8"]
    )
    assert isinstance(answer, cohere.EmbeddingsByTypeEmbedResponse)
    assert by_type(answer.embeddings) == {
        kind: server.embed(TEXTS, embedding_type=kind).embeddings() for kind in ("float", "int8")
    }


def test_v1_without_types_is_a_plain_array(v1: cohere.Client, server: Server) -> None:
    answer = v1.embed(model=server.model_id, texts=TEXTS)
    assert isinstance(answer, cohere.EmbeddingsFloatsEmbedResponse)
    assert answer.embeddings == server.embed(TEXTS).embeddings()
    assert answer.texts == TEXTS


@pytest.mark.parametrize("task", TASKS)
def test_the_input_type_chooses_the_same_prompt(v2: cohere.ClientV2, server: Server, task: str) -> None:
    answer = v2.embed(model=server.model_id, texts=TEXTS, input_type=task, embedding_types=["float"])
    assert answer.embeddings.float_ == server.embed(TEXTS, input_type=task).embeddings()
    others = [other for other in TASKS if other != task]
    assert all(
        answer.embeddings.float_ != server.embed(TEXTS, input_type=other).embeddings() for other in others
    )


def test_what_is_billed_is_what_the_model_read(v2: cohere.ClientV2, server: Server) -> None:
    answer = v2.embed(model=server.model_id, texts=TEXTS, input_type="search_query", embedding_types=["int8"])
    wire = server.embed(TEXTS, input_type="search_query").json()
    assert answer.meta
    assert answer.meta.billed_units
    assert answer.meta.billed_units.input_tokens == wire["usage"]["prompt_tokens"]
    assert answer.meta.api_version
    assert answer.meta.api_version.version == "2"
    assert answer.texts == TEXTS
    assert answer.id


def test_inputs_of_text_parts_are_texts(v2: cohere.ClientV2, server: Server) -> None:
    parts = [EmbedInput(content=[TextEmbedContent(text=text)]) for text in TEXTS]
    answer = v2.embed(
        model=server.model_id, inputs=parts, input_type="search_document", embedding_types=["float"]
    )
    assert answer.embeddings.float_ == server.embed(TEXTS).embeddings()


@pytest.mark.parametrize("dimensions", [8, 16, 32])
def test_a_declared_size_is_honoured(v2: cohere.ClientV2, server: Server, dimensions: int) -> None:
    answer = v2.embed(
        model=server.model_id, texts=TEXTS, input_type="search_document", embedding_types=["float", "ubinary"],
        output_dimension=dimensions,
    )  # fmt: skip
    assert answer.embeddings.float_ == server.embed(TEXTS, dimensions=dimensions).embeddings()
    assert [len(row) for row in answer.embeddings.ubinary or []] == [dimensions // 8] * 3


@pytest.mark.parametrize("truncate", ["END", "START"])
def test_a_long_text_is_cut_where_asked(v2: cohere.ClientV2, server: Server, truncate: Any) -> None:
    text = " ".join(["old moon autumn rain"] * 80)
    answer = v2.embed(
        model=server.model_id, texts=[text], input_type="search_document", embedding_types=["float"],
        truncate=truncate,
    )  # fmt: skip
    assert answer.embeddings.float_ == server.embed([text], truncate=truncate).embeddings()


def test_a_long_text_that_may_not_be_cut_is_refused(v2: cohere.ClientV2, server: Server) -> None:
    with pytest.raises(cohere.BadRequestError, match="64"):
        v2.embed(
            model=server.model_id, texts=["frog " * 100], input_type="search_document",
            embedding_types=["float"], truncate="NONE",
        )  # fmt: skip


def test_97_texts_are_refused_in_coheres_own_words(v2: cohere.ClientV2, server: Server) -> None:
    with pytest.raises(cohere.BadRequestError) as refusal:
        v2.embed(
            model=server.model_id,
            texts=["frog"] * 97,
            input_type="search_document",
            embedding_types=["float"],
        )
    assert refusal.value.body["message"] == "total number of texts must be at most 96 - received 97"
    assert refusal.value.body["id"]


def test_the_older_client_splits_97_texts_itself(v1: cohere.Client, server: Server) -> None:
    texts = [f"frog {number}" for number in range(97)]
    answer = v1.embed(model=server.model_id, texts=texts, input_type="search_document")
    wire = server.embed(texts[:96]).embeddings() + server.embed(texts[96:]).embeddings()
    assert answer.embeddings == wire


def test_an_image_is_refused_by_name(v2: cohere.ClientV2, server: Server) -> None:
    with pytest.raises(cohere.BadRequestError, match="Images are not served"):
        v2.embed(
            model=server.model_id, images=["data:image/png;base64,iVBORw0KGgo="], input_type="image",
            embedding_types=["float"],
        )  # fmt: skip


def test_the_async_clients_give_the_same_bits(server: Server) -> None:
    async def ask() -> tuple[Any, Any]:
        async with cohere.AsyncClient(server.key, base_url=server.url) as v1:
            first = await v1.embed(model=server.model_id, texts=TEXTS)
        async with cohere.AsyncClientV2(server.key, base_url=server.url) as v2:
            second = await v2.embed(
                model=server.model_id, texts=TEXTS, input_type="search_document", embedding_types=["float"]
            )
        return first.embeddings, second.embeddings.float_

    wire = server.embed(TEXTS).embeddings()
    assert asyncio.run(ask()) == (wire, wire)
