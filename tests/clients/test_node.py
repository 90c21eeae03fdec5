"""The SDKs for Node, and the request that Heroku's command line sends: the same bits, and their own errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from node import Node

from server import Server

TEXTS = ["the frog and the pond", "autumn rain", "古池や蛙飛び込む水の音"]

OPENAI = """
import OpenAI from "openai";
const env = process.env;
const sdk = new OpenAI({ baseURL: env.BASE, apiKey: env.KEY, maxRetries: 0 });
const ask = (fields) => sdk.embeddings.create({ model: env.MODEL, input: JSON.parse(env.TEXTS), ...fields });
const error = async (call) => {
  try { await call(); } catch (e) { return { name: e.constructor.name, status: e.status, message: e.message }; }
};
"""
AI_SDK = """
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embed, embedMany } from "ai";
const env = process.env;
const provider = createOpenAICompatible({ name: "senryu", baseURL: env.BASE, apiKey: env.KEY });
const model = provider.embeddingModel(env.MODEL);
"""
LANGCHAIN = """
import { OpenAIEmbeddings } from "@langchain/openai";
const env = process.env;
const embeddings = new OpenAIEmbeddings({
  model: env.MODEL, apiKey: env.KEY, maxRetries: 0, configuration: { baseURL: env.BASE },
});
"""
# As @heroku/plugin-ai 1.1.0 asks, and prints without --json: data[0].embeddings.
HEROKU_CLI = """
const env = process.env;
const headers = {
  accept: "application/json",
  "user-agent": "heroku-cli-plugin-ai/1.1.0 linux",
  "content-type": "application/json",
};
const models = await (await fetch(`${env.BASE}/available-models`, { headers })).json();
const type = models.find((model) => model.model_id === env.MODEL).type[0];
const answer = await (await fetch(`${env.BASE}/v1/embeddings`, {
  method: "POST",
  headers: { ...headers, authorization: `Bearer ${env.KEY}` },
  body: JSON.stringify({ model: env.MODEL, input: JSON.parse(env.TEXTS)[0] }),
})).json();
console.log(JSON.stringify({ type, printed: answer.data[0].embeddings.toString() }));
"""


def environment(server: Server, base: str, texts: list[str] = TEXTS, **changed: str) -> dict[str, str]:
    return {
        "BASE": server.url + base,
        "KEY": server.key,
        "MODEL": server.model_id,
        "TEXTS": json.dumps(texts),
    } | changed


def bits(vectors: Any) -> bytes:
    return np.array(vectors, np.float32).tobytes()


def wire(server: Server, texts: list[str] = TEXTS) -> bytes:
    return server.embed(texts, encoding_format="base64").floats().tobytes()


@pytest.mark.parametrize("base", ["", "/v1", "/openai/v1"])
def test_openai_gives_the_wires_bits_in_both_encodings(node: Node, server: Server, base: str) -> None:
    source = (
        OPENAI
        + """
    const vectors = async (fields) => (await ask(fields)).data.map((item) => item.embedding);
    console.log(JSON.stringify([await vectors({}), await vectors({ encoding_format: "float" })]));
    """
    )
    default, plain = node.json(source, environment(server, base))
    assert bits(default) == bits(plain) == wire(server)


def test_openai_raises_its_own_errors(node: Node, server: Server) -> None:
    source = (
        OPENAI
        + """
    const other = (key) => new OpenAI({ baseURL: env.BASE, apiKey: key, maxRetries: 0 }).embeddings;
    console.log(JSON.stringify([
      await error(() => ask({ input: Array(97).fill("frog") })),
      await error(() => other("inf-wrong").create({ model: env.MODEL, input: "frog" })),
      await error(() => ask({ model: "another-model" })),
      await error(() => ask({ input: [[15339, 1917]] })),
    ]));
    """
    )
    refused = node.json(source, environment(server, "/v1"))
    assert [(error["name"], error["status"]) for error in refused] == [
        ("BadRequestError", 400),
        ("AuthenticationError", 401),
        ("PermissionDeniedError", 403),
        ("BadRequestError", 400),
    ]
    assert "/openai/v1" in refused[0]["message"]
    assert server.model_id in refused[2]["message"]
    assert "check_embedding_ctx_length=False" in refused[3]["message"]


def test_the_ai_sdk_gives_the_wires_bits(node: Node, server: Server) -> None:
    source = (
        AI_SDK
        + """
    const many = await embedMany({ model, values: JSON.parse(env.TEXTS) });
    const one = await embed({ model, value: JSON.parse(env.TEXTS)[0] });
    console.log(JSON.stringify({ many: many.embeddings, one: one.embedding, tokens: many.usage.tokens }));
    """
    )
    answer = node.json(source, environment(server, "/openai/v1"))
    assert bits(answer["many"]) == wire(server)
    assert bits(answer["one"]) == wire(server, TEXTS[:1])
    assert answer["tokens"] == server.embed(TEXTS).json()["usage"]["prompt_tokens"]


def test_the_ai_sdks_default_batch_of_2048_is_answered(node: Node, server: Server) -> None:
    source = (
        AI_SDK
        + """
    const values = Array.from({ length: 2050 }, (_, number) => `frog ${number}`);
    const { embeddings } = await embedMany({ model, values, maxRetries: 0 });
    console.log(JSON.stringify({ batch: await model.maxEmbeddingsPerCall, count: embeddings.length,
      ends: [embeddings[0], embeddings[2047], embeddings[2049]] }));
    """
    )
    answer = node.json(source, environment(server, "/openai/v1"))
    assert (answer["batch"], answer["count"]) == (2048, 2050)
    assert bits(answer["ends"]) == wire(server, ["frog 0", "frog 2047", "frog 2049"])


@pytest.mark.parametrize(
    ("changed", "base", "status"),
    [
        ({"KEY": "inf-wrong"}, "/v1", 401),
        ({"MODEL": "another-model"}, "/v1", 403),
        ({"TEXTS": json.dumps(["frog"] * 97)}, "/v1", 400),
    ],
)
def test_the_ai_sdk_raises_its_call_error(
    node: Node, server: Server, changed: dict[str, str], base: str, status: int
) -> None:
    source = (
        AI_SDK
        + """
    try {
      await embedMany({ model, values: JSON.parse(env.TEXTS), maxRetries: 0 });
    } catch (e) {
      console.log(JSON.stringify({ ours: APICallError.isInstance(e), status: e.statusCode, again: e.isRetryable,
        message: e.message, said: JSON.parse(e.responseBody).error.message }));
    }
    """
    )
    error = node.json(source, environment(server, base, **changed))
    assert (error["ours"], error["status"], error["again"]) == (True, status, False)
    assert error["message"] == error["said"]


def test_langchains_default_batch_of_512_is_answered(node: Node, server: Server) -> None:
    source = (
        LANGCHAIN
        + """
    const texts = Array.from({ length: 513 }, (_, number) => `frog ${number}`);
    const vectors = await embeddings.embedDocuments(texts);
    const query = await embeddings.embedQuery(texts[0]);
    console.log(JSON.stringify({ batch: embeddings.batchSize, count: vectors.length,
      ends: [vectors[0], vectors[512], query] }));
    """
    )
    answer = node.json(source, environment(server, "/openai/v1"))
    assert (answer["batch"], answer["count"]) == (512, 513)
    assert bits(answer["ends"]) == wire(server, ["frog 0", "frog 512", "frog 0"])


def test_herokus_command_line_prints_the_vector(node: Node, server: Server) -> None:
    answer = node.json(HEROKU_CLI, environment(server, ""))
    assert answer["type"] == "text-to-embedding"
    assert bits([float(number) for number in answer["printed"].split(",")]) == wire(server, TEXTS[:1])
