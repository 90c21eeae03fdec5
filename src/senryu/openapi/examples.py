"""Requests and answers to look at. The vectors are true, and a test holds every example to its schema."""

from __future__ import annotations

import json
from typing import Any

from senryu.openapi.words import MAX_CHARS, MAX_INPUTS, Json

# NOTE: real answers of the default model to "hello world". The floats are those of f32, and differ from the
# third digit on in bf16; the bits are the same in both.
FLOATS = [-0.03447723, 0.031023225, 0.0067350194, 0.026109004, -0.039362025]
BITS = [114, 120, 143, 51, 145, 139, 135, 165, 144, 223, 191, 12, 159, 208, 164, 182]
BITS += [188, 245, 83, 204, 120, 123, 245, 189, 57, 250, 170, 25, 193, 126, 193, 119]
BITS += [80, 17, 9, 47, 185, 19, 255, 20, 92, 115, 86, 147, 78, 70, 159, 219]
BITS_BASE64 = "cniPM5GLh6WQ378Mn9Cktrz1U8x4e/W9OfqqGcF+wXdQEQkvuRP/FFxzVpNORp/b"


METRICS = """\
# HELP senryu_requests_total Requests answered, by route and status.
# TYPE senryu_requests_total counter
senryu_requests_total{route="/v1/embeddings",status="200"} 17.0
"""


def one(value: Any, summary: str = "200") -> Json:
    """Return a single example, or none for None."""
    return {} if value is None else {"answer": {"summary": summary, "value": value}}


def requests(model: str) -> Json:
    """Return bodies for POST /v1/embeddings."""
    return {
        "least": {
            "summary": "One text, everything else by default",
            "value": {"model": model, "input": "hello world"},
        },
        "bits": {
            "summary": "A query, as base64 of one bit for each dimension",
            "value": {
                "model": model,
                "input": ["hello world"],
                "input_type": "search_query",
                "encoding_format": "base64",
                "embedding_type": "ubinary",
            },
        },
    }


def responses(model: str) -> Json:
    """Return answers of POST /v1/embeddings, in three of its forms."""
    return {
        "float": {
            "summary": "`raw`, `float`; of the 384 numbers only the first 5 are shown",
            "value": _answer(model, FLOATS),
        },
        "ubinary": {
            "summary": "`raw`, `ubinary`: 384 bits in 48 numbers",
            "value": _answer(model, BITS),
        },
        "base64": {
            "summary": "`base64`, `ubinary`: the same 48 bytes",
            "value": _answer(model, BITS_BASE64),
        },
    }


def _answer(model: str, vector: list[float] | list[int] | str) -> Json:
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "model": model,
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }


def available_model(model: str) -> Json:
    """Return an item of GET /available-models."""
    return {"model_id": model, "type": ["text-to-embedding"], "regions": ["local"]}


def model(model: str) -> Json:
    """Return an item of GET /v1/models."""
    return {"id": model, "object": "model", "created": 1795255200, "owned_by": "senryu"}


def resource(model: str) -> Json:
    """Return an answer of GET /models/{id}."""
    return {
        "id": "8f14e45f-ceea-467f-a9d2-5b6f0d3c7e21",
        "name": "embedding-tidy-04217",
        "model_id": model,
        "ready": "Yes",
        "avg_performance": "latency 0.4sec, 28 tokens/sec",
        "created": "2026-11-21T10:00:00.000+00:00",
        "type": ["text-to-embedding"],
        "dimensions": 384,
        "dimensions_supported": [384],
        "max_tokens": 256,
        "max_inputs": MAX_INPUTS,
        "max_chars": MAX_CHARS,
        "languages": ["en"],
        "licence": "Apache-2.0",
        "weights": "sentence-transformers/all-MiniLM-L6-v2@1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        "precision": "bf16",
        "precision_loss": None,
        "engine": "native",
        "reproducible": True,
        "fingerprint": "3b1f0c9ad27e5a68",
    }


def code_samples(server_url: str, model: str) -> list[Json]:
    """Return programs that call POST /v1/embeddings, as the extension x-codeSamples has them."""
    body = f'{{\n  "model": {json.dumps(model)},\n  "input": ["hello world"]\n}}'
    curl = (
        f"curl {server_url}/v1/embeddings \\\n"
        '  -H "Authorization: Bearer $EMBEDDING_KEY" \\\n'
        f"  -d @- <<'EOF'\n{body}\nEOF"
    )
    python = (
        "import os\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{server_url}/v1", api_key=os.environ["EMBEDDING_KEY"])\n'
        f'answer = client.embeddings.create(model="{model}", input=["hello world"])\n'
        "print(answer.data[0].embedding[:5])"
    )
    key = "eval $(senryu config --shell | grep '^EMBEDDING_' | sed 's/^/export /')"
    return [
        {"lang": "Shell", "label": "First, the key into the environment", "source": key},
        {"lang": "Shell", "label": "curl", "source": curl},
        {"lang": "Python", "label": "Python, with OpenAI's library", "source": python},
    ]
