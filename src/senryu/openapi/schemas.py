"""What goes in and out, as JSON Schema 2020-12. Knows names, types and bounds; no route, status or header."""

from __future__ import annotations

from typing import Any, TypeAlias

from senryu.types import OutputType, Task, Truncate

Json: TypeAlias = dict[str, Any]

MAX_INPUTS = 96
MAX_CHARS = 2048
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
        "EmbeddingRequest": _request(models),
        "EmbeddingResponse": _object(
            {
                "object": {"const": "list"},
                "data": list_of("Embedding"),
                "model": _text("The model's name, as the caller gave it."),
                "usage": ref("schemas", "Usage"),
            }
        ),
        "Embedding": _EMBEDDING,
        "Vector": _VECTOR,
        "Usage": _USAGE,
        "Error": _ERROR,
        "Resource": _RESOURCE,
        "AvailableModel": _AVAILABLE_MODEL,
        "Model": _MODEL,
        "ModelList": _object({"object": {"const": "list"}, "data": list_of("Model")}),
        "Status": _object({"status": {"const": "ok"}}),
    }


def _request(models: tuple[str, ...]) -> Json:
    return {
        "type": "object",
        "required": ["model", "input"],
        "properties": _request_fields(models),
        "unevaluatedProperties": False,
        "if": {
            "required": ["allow_ignored_params"],
            "properties": {"allow_ignored_params": {"const": True}},
        },
        "then": {"additionalProperties": True},
        "description": "A field that is not listed is refused, unless `allow_ignored_params` is true. A "
        "field given twice is refused. `null` stands for the default, except in `model` and `input`.",
    }


def _request_fields(models: tuple[str, ...]) -> Json:
    text = {"type": "string", "minLength": 1, "maxLength": MAX_CHARS}
    return {
        "model": {
            **_text("Id or alias of the model that the key is for."),
            "minLength": 1,
            "examples": list(models),
        },
        "input": {
            "anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": MAX_INPUTS}],
            "description": "One text or several. Characters are Unicode code points. The limits are settings "
            "of the model resource; these are the defaults.",
        },
        "input_type": _choice(
            [task.value for task in Task],
            Task.SEARCH_DOCUMENT.value,
            "What the vectors are for. It chooses the prompt that the model was trained with; a model "
            "that has none ignores it.",
        ),
        "encoding_format": _choice(
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
        "truncate": _choice(
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


def _text(description: str) -> Json:
    return {"type": "string", "description": description}


def _number(description: str) -> Json:
    return {"type": "integer", "minimum": 0, "description": description}


def _choice(values: list[str], default: str, description: str) -> Json:
    return {
        "type": ["string", "null"],
        "enum": [*values, None],
        "default": default,
        "description": description,
    }


def _object(properties: Json, *, optional: tuple[str, ...] = ()) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def list_of(schema: str) -> Json:
    """Return the schema of an array of a named one."""
    return {"type": "array", "items": ref("schemas", schema)}


def ref(kind: str, name: str) -> Json:
    """Point at a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


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

_EMBEDDING: Json = _object(
    {
        "object": {"const": "embedding"},
        "index": _number("Which input it belongs to, from 0."),
        "embedding": ref("schemas", "Vector"),
        "embeddings": {
            **ref("schemas", "Vector"),
            "description": "The same vector again, only for a client whose `user-agent` starts with "
            "`heroku-cli-plugin-ai/`.",
        },
    },
    optional=("embeddings",),
)

_USAGE: Json = _object(
    {
        "prompt_tokens": _number(
            "Tokens that the model read: after cutting, prompt and special tokens included."
        ),
        "total_tokens": _number("The same number."),
    }
)

_ERROR: Json = _object(
    {
        "error": _object(
            {
                "code": {"type": "integer", "description": "The status again."},
                "message": _text("A sentence for the person who has to act."),
                "type": {"type": "string", "enum": list(ERROR_TYPES)},
            }
        )
    }
)

_RESOURCE: Json = _object(
    {
        "id": _text("The resource's id."),
        "name": _text("The resource's name."),
        "model_id": _text("What to send as `model`."),
        "ready": {"type": "string", "enum": ["Yes", "No"]},
        "avg_performance": _text("Latency and throughput, in words."),
        "created": {"type": "string", "format": "date-time"},
        "type": {"type": "array", "items": {"type": "string"}},
        "dimensions": _number("Length of a vector, unless `dimensions` asks for a shorter one."),
        "dimensions_supported": {"type": "array", "items": {"type": "integer"}},
        "max_tokens": _number("Tokens that the model reads of one text."),
        "max_inputs": _number("Texts that one request may hold."),
        "max_chars": _number("Characters that one text may have."),
        "languages": {"type": "array", "items": {"type": "string"}},
        "licence": _text("The licence of the weights."),
        "weights": _text("Where the weights come from."),
        "precision": _text("Number format of the matrix products."),
        "engine": _text("What runs the model."),
        "reproducible": {"type": "boolean", "description": "Whether the same text gives the same bits."},
        "fingerprint": _text("As in `x-senryu-fingerprint`."),
    }
)

_AVAILABLE_MODEL: Json = _object(
    {
        "model_id": _text("What to send as `model`."),
        "type": {"type": "array", "items": {"type": "string"}},
        "regions": {"type": "array", "items": {"type": "string"}},
    }
)

_MODEL: Json = _object(
    {
        "id": _text("What to send as `model`."),
        "object": {"const": "model"},
        "created": _number("When it was provisioned, in seconds since 1970."),
        "owned_by": {"type": "string"},
    }
)
