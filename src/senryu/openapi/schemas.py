"""What goes in and out, as JSON Schema 2020-12. Knows names, types and bounds; no route, status or header."""

from __future__ import annotations

from senryu.openapi import cohere
from senryu.openapi.words import (
    MAX_CHARS,
    MAX_INPUTS,
    OPENAI_MAX_INPUTS,
    OPENAI_MAX_TOKENS,
    Json,
    choice,
    list_of,
    model_field,
    number,
    object_of,
    ref,
    text,
)
from senryu.types import OutputType, Task, Truncate

ERROR_TYPES = (
    "invalid_request_error",
    "authentication_error",
    "authorization_error",
    "not_found_error",
    "rate_limit_error",
    "server_error",
)


def schemas(models: tuple[str, ...]) -> Json:
    """Return every schema by name."""
    return {
        "EmbeddingRequest": _request(models, MAX_INPUTS, MAX_CHARS),
        "OpenAIEmbeddingRequest": _request(models, OPENAI_MAX_INPUTS, None),
        "EmbeddingResponse": object_of(
            {
                "object": {"const": "list"},
                "data": list_of("Embedding"),
                "model": text("The model's name, as the caller gave it."),
                "usage": ref("schemas", "Usage"),
            }
        ),
        "Embedding": _EMBEDDING,
        "Vector": _VECTOR,
        "Usage": _USAGE,
        "Error": _ERROR,
        "OpenAIError": _OPENAI_ERROR,
        "Resource": _RESOURCE,
        "AvailableModel": _AVAILABLE_MODEL,
        "Model": _MODEL,
        "ModelList": object_of({"object": {"const": "list"}, "data": list_of("Model")}),
        "Status": object_of({"status": {"const": "ok"}}),
        **cohere.schemas(models),
    }


def _request(models: tuple[str, ...], max_inputs: int, max_chars: int | None) -> Json:
    return {
        "type": "object",
        "required": ["model", "input"],
        "properties": {
            "model": model_field(models),
            "input": _input(max_inputs, max_chars),
            **_OPTIONAL_FIELDS,
        },
        "unevaluatedProperties": False,
        "if": {
            "required": ["allow_ignored_params"],
            "properties": {"allow_ignored_params": {"const": True}},
        },
        "then": {"additionalProperties": True},
        "description": "A field that is not listed is refused, unless `allow_ignored_params` is true. A "
        "field given twice is refused. `null` stands for the default, except in `model` and `input`.",
    }


def _input(max_inputs: int, max_chars: int | None) -> Json:
    one: Json = {"type": "string", "minLength": 1}
    token_ids = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
    if max_chars is not None:
        one["maxLength"] = max_chars
    several = {"minItems": 1, "maxItems": max_inputs}
    limits = (
        f"At most {OPENAI_MAX_TOKENS:,} tokens in all, after each text was cut to what the model reads."
        if max_chars is None
        else "The limits are settings of the model resource; these are the defaults."
    )
    return {
        "anyOf": [
            one,
            {"type": "array", "items": one, **several},
            token_ids,
            {"type": "array", "items": token_ids, **several},
        ],
        "description": "One text or several. Characters are Unicode code points. A text may also be given as the "
        "ids of its tokens in the model's own vocabulary, without prompt and special tokens, which are added. "
        + limits,
    }


_TYPE_NAME: Json = {"type": "string", "enum": [output_type.value for output_type in OutputType]}

_EMBEDDING_TYPE: Json = {
    "anyOf": [
        _TYPE_NAME,
        {"type": "array", "items": _TYPE_NAME, "minItems": 1, "maxItems": 1},
        {"type": "null"},
    ],
    "default": OutputType.FLOAT.value,
    "description": "How a vector is coded. `int8` and `uint8` take a byte for each dimension, `binary` and "
    "`ubinary` a bit. An array of one name is taken as that name. With OpenAI's libraries name "
    '`encoding_format="float"` too: unasked they want base64, and read it as float32.',
}

_VECTOR: Json = {
    "description": "What is in it follows from `encoding_format` and `embedding_type`.",
    "anyOf": [
        {
            "title": "float",
            "type": "array",
            "items": {"type": "number"},
            "description": "Of length 1; each number is the shortest decimal that gives the same float32.",
        },
        {
            "title": "int8, binary",
            "type": "array",
            "items": {"type": "integer", "minimum": -128, "maximum": 127},
        },
        {
            "title": "uint8, ubinary",
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 255},
        },
        {
            "title": "base64",
            "type": "string",
            "contentEncoding": "base64",
            "description": "The little-endian bytes of the same numbers, standard alphabet, padded.",
        },
    ],
}

_EMBEDDING: Json = object_of(
    {
        "object": {"const": "embedding"},
        "index": number("Which input it belongs to, from 0."),
        "embedding": ref("schemas", "Vector"),
        "embeddings": {
            **ref("schemas", "Vector"),
            "description": "The same vector again, only for a client whose `user-agent` starts with "
            "`heroku-cli-plugin-ai/`.",
        },
    },
    optional=("embeddings",),
)

_USAGE: Json = object_of(
    {
        "prompt_tokens": number(
            "Tokens that the model read: after cutting, prompt and special tokens included."
        ),
        "total_tokens": number("The same number."),
    }
)

_ERROR: Json = object_of(
    {
        "error": object_of(
            {
                "code": {"type": "integer", "description": "The status again."},
                "message": text("A sentence for the person who has to act."),
                "type": {"type": "string", "enum": list(ERROR_TYPES)},
            }
        )
    }
)

_RESOURCE: Json = object_of(
    {
        "id": text("The resource's id."),
        "name": text("The resource's name."),
        "model_id": text("What to send as `model`."),
        "ready": {
            "type": "string",
            "enum": ["Yes", "No"],
            "description": "No: its model is loaded when it is first asked for, and what computes it is not said yet.",
        },
        "avg_performance": text("Latency and throughput, in words."),
        "created": {"type": "string", "format": "date-time"},
        "type": {"type": "array", "items": {"type": "string"}},
        "dimensions": number("Length of a vector, unless `dimensions` asks for a shorter one."),
        "dimensions_supported": {"type": "array", "items": {"type": "integer"}},
        "max_tokens": number("Tokens that the model reads of one text."),
        "max_inputs": number("Texts that one request may hold."),
        "max_chars": number("Characters that one text may have."),
        "languages": {"type": "array", "items": {"type": "string"}},
        "licence": text("The licence of the weights."),
        "weights": text("Where the weights come from."),
        "precision": text("Number format of the matrix products."),
        "precision_loss": {
            "type": ["object", "null"],
            "additionalProperties": {"type": "number"},
            "description": "What int8 was measured to cost against f32, on texts that its calibration did not see: "
            "cosines, rank correlation, overlap of the ten nearest. Null for the other formats.",
        },
        "engine": text(
            "What runs the model: `native` are our own kernels; `exported` is its repository's graph."
        ),
        "reproducible": {"type": "boolean", "description": "Whether the same text gives the same bits."},
        "fingerprint": text("As in `x-senryu-fingerprint`."),
    },
    optional=("precision", "precision_loss", "engine", "reproducible", "fingerprint"),
)

_AVAILABLE_MODEL: Json = object_of(
    {
        "model_id": text("What to send as `model`."),
        "type": {"type": "array", "items": {"type": "string"}},
        "regions": {"type": "array", "items": {"type": "string"}},
    }
)

_MODEL: Json = object_of(
    {
        "id": text("What to send as `model`."),
        "object": {"const": "model"},
        "created": number("When it was provisioned, in seconds since 1970."),
        "owned_by": {"type": "string"},
    }
)

_OPENAI_ERROR: Json = object_of(
    {
        "error": object_of(
            {
                "message": text("A sentence for the person who has to act."),
                "type": {"type": "string", "enum": list(ERROR_TYPES)},
                "param": {"type": ["string", "null"], "description": "The field at fault, if it is one."},
                "code": {"type": ["string", "null"], "description": "A word for programs, if there is one."},
            }
        )
    }
)

_OPTIONAL_FIELDS: Json = {
    "input_type": choice(
        [task.value for task in Task],
        Task.SEARCH_DOCUMENT.value,
        "What the vectors are for. It chooses the prompt that the model was trained with; a model "
        "that has none ignores it.",
    ),
    "encoding_format": choice(
        ["raw", "base64", "float"],
        "raw",
        "How a vector is written: `raw` is a JSON array, `base64` the little-endian bytes of the same "
        "numbers. `float` is another name of `raw`.",
    ),
    "embedding_type": _EMBEDDING_TYPE,
    "dimensions": {
        "type": ["integer", "null"],
        "minimum": 1,
        "default": None,
        "description": "Length of the vectors: the model's own, which is the default, or a shorter one "
        "that the model declares. `GET /models/{id}` lists them.",
    },
    "truncate": choice(
        [side.value for side in Truncate],
        Truncate.END.value,
        "Which end of a text is cut off when it has more tokens than the model reads. `NONE` refuses it "
        "instead, naming the token count and the limit.",
    ),
    "allow_ignored_params": {
        "type": ["boolean", "null"],
        "default": False,
        "description": "Whether a field that is not listed here is ignored. Otherwise it is refused.",
    },
    "user": {
        "type": ["string", "null"],
        "default": None,
        "description": "Taken, because OpenAI's clients may send it. It is not used and not logged.",
    },
}
