"""Cohere's requests, answers and error as JSON Schema 2020-12, and examples. Knows no route, status or header."""

from __future__ import annotations

from senryu.openapi.words import (
    MAX_INPUTS,
    Json,
    choice,
    model_field,
    number,
    object_of,
    ref,
    text,
)
from senryu.types import OutputType, Task, Truncate

EMBEDDING_TYPES = [*(output_type.value for output_type in OutputType), "base64"]


def schemas(models: tuple[str, ...]) -> Json:
    """Return every schema by name."""
    return {
        "CohereV2Request": _request(models, _V2_FIELDS, ["model", "input_type"])
        | {"oneOf": [_array_given("texts"), _array_given("inputs")]},
        "CohereV1Request": _request(models, _V1_FIELDS, ["model", "texts"]),
        "CohereInput": _INPUT,
        "CohereV2Response": object_of(_answer(ref("schemas", "CohereEmbeddings"), ["embeddings_by_type"])),
        "CohereV1Response": _V1_RESPONSE,
        "CohereEmbeddings": _EMBEDDINGS,
        "CohereMeta": _META,
        "CohereError": object_of(
            {
                "id": text("The request's id, as in `x-request-id`."),
                "message": text("A sentence for the person who has to act."),
            }
        ),
    }


def _request(models: tuple[str, ...], fields: Json, required: list[str]) -> Json:
    return {
        "type": "object",
        "required": required,
        "properties": {"model": model_field(models), **fields},
        "additionalProperties": False,
        "description": "A field that is not listed is refused, and so is one given twice. `null` stands for the "
        "default of a field that has one.",
    }


def _array_given(name: str) -> Json:
    return {"required": [name], "properties": {name: {"type": "array"}}}


def _answer(embeddings: Json, response_types: list[str]) -> Json:
    return {
        "id": text("The request's id, as in `x-request-id`."),
        "embeddings": embeddings,
        "texts": {"type": "array", "items": {"type": "string"}, "description": "The texts, as they came."},
        "meta": ref("schemas", "CohereMeta"),
        "response_type": {"type": "string", "enum": response_types},
    }


def _rows(item: Json, description: str) -> Json:
    return {"type": "array", "items": {"type": "array", "items": item}, "description": description}


def _whole(least: int, most: int) -> Json:
    return {"type": "integer", "minimum": least, "maximum": most}


_TEXT: Json = {"type": "string", "minLength": 1}

_INPUT: Json = {
    "type": "object",
    "required": ["content"],
    "additionalProperties": False,
    "properties": {
        "content": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["type", "text"],
                "additionalProperties": False,
                "properties": {"type": {"const": "text"}, "text": _TEXT},
            },
        }
    },
}

_TEXTS: Json = {
    "items": _TEXT,
    "minItems": 1,
    "maxItems": MAX_INPUTS,
    "description": "The texts, of any length; each is cut as `truncate` says. How many may be in one request is a "
    "setting of the model resource; this is the default.",
}

_IMAGES: Json = {
    "type": ["array", "null"],
    "items": {"type": "string"},
    "maxItems": 0,
    "default": None,
    "description": "Not served: a request with an image is refused.",
}

_TASKS = [task.value for task in Task]
_TASK = "What the vectors are for. It chooses the prompt that the model was trained with."

_TYPES: Json = {
    "type": ["array", "null"],
    "items": {"type": "string", "enum": EMBEDDING_TYPES},
    "minItems": 1,
    "description": "How the vectors are coded, one or several ways; all come from one computation. `base64` is the "
    "little-endian bytes of the floats.",
}

_TRUNCATE = choice(
    [side.value for side in Truncate],
    Truncate.END.value,
    "Which end of a text is cut off when it has more tokens than the model reads, or than `max_tokens`. `NONE` "
    "refuses it instead.",
)

_V1_FIELDS: Json = {
    "texts": {"type": "array", **_TEXTS},
    "images": _IMAGES,
    "input_type": choice(_TASKS, Task.SEARCH_DOCUMENT.value, _TASK),
    "embedding_types": {
        **_TYPES,
        "default": None,
        "description": f"{_TYPES['description']} Without it the answer holds a plain array of floats.",
    },
    "truncate": _TRUNCATE,
}

_V2_FIELDS: Json = {
    "texts": {"type": ["array", "null"], "default": None, **_TEXTS},
    "inputs": {
        "type": ["array", "null"],
        "default": None,
        "items": ref("schemas", "CohereInput"),
        "minItems": 1,
        "maxItems": MAX_INPUTS,
        "description": "The texts in another form, instead of `texts`: each an object with `content`, an array of "
        '`{"type": "text", "text": "…"}`. The parts of one input are one text, a line each.',
    },
    "images": _IMAGES,
    "input_type": {"type": "string", "enum": _TASKS, "description": _TASK},
    "embedding_types": {**_TYPES, "default": [OutputType.FLOAT.value]},
    "output_dimension": {
        "type": ["integer", "null"],
        "minimum": 1,
        "default": None,
        "description": "Length of the vectors: the model's own, or a shorter one that it declares.",
    },
    "truncate": _TRUNCATE,
    "max_tokens": {
        "type": ["integer", "null"],
        "minimum": 1,
        "default": None,
        "description": "Tokens that are read of each text at most, prompt and special tokens not counted.",
    },
    "priority": {
        "type": ["integer", "null"],
        "minimum": 0,
        "maximum": 999,
        "default": 0,
        "description": "Taken, and not used: keys are served fairly, whatever they ask for.",
    },
}

_EMBEDDINGS: Json = {
    "type": "object",
    "required": [],
    "additionalProperties": False,
    "properties": {
        "float": _rows({"type": "number"}, "Of length 1."),
        "int8": _rows(_whole(-128, 127), "A byte for each dimension."),
        "uint8": _rows(_whole(0, 255), "`int8` + 128."),
        "binary": _rows(_whole(-128, 127), "`ubinary` - 128."),
        "ubinary": _rows(_whole(0, 255), "A bit for each dimension."),
        "base64": {
            "type": "array",
            "items": {"type": "string", "contentEncoding": "base64"},
            "description": "The floats' little-endian bytes.",
        },
    },
}

_META: Json = object_of(
    {
        "api_version": object_of({"version": {"type": "string", "enum": ["1", "2"]}}),
        "billed_units": object_of(
            {"input_tokens": number("Tokens that the model read, special ones included.")}
        ),
    }
)

_PLAIN = _rows({"type": "number"}, "Floats, where no `embedding_types` were asked for.")
_V1_RESPONSE: Json = {
    **object_of(
        _answer(
            {
                "anyOf": [_PLAIN, ref("schemas", "CohereEmbeddings")],
                "description": "By type, if types were asked for.",
            },
            ["embeddings_floats", "embeddings_by_type"],
        )
    ),
    "if": {"properties": {"response_type": {"const": "embeddings_floats"}}},
    "then": {"properties": {"embeddings": {"type": "array"}}},
    "else": {"properties": {"embeddings": {"type": "object"}}},
}


# ---- examples -----------------------------------------------------------------------------------------------


def v2_requests(model: str) -> Json:
    """Return bodies for POST /v2/embed."""
    asked: Json = {"model": model, "input_type": "search_document"}
    parts = [{"content": [{"type": "text", "text": "hello world"}]}]
    return {
        "types": {
            "summary": "Two types at once",
            "value": {**asked, "texts": ["hello world"], "embedding_types": ["float", "ubinary"]},
        },
        "inputs": {"summary": "The other form", "value": {**asked, "inputs": parts}},
    }


def v1_requests(model: str) -> Json:
    """Return bodies for POST /v1/embed."""
    return {"least": {"summary": "Floats", "value": {"model": model, "texts": ["hello world"]}}}


def answer(embeddings: Json | list[list[float]], version: int) -> Json:
    """Return an answer that holds these."""
    return {
        "id": "5f0c2a4e9b7d41d8a3c6e1f20b9d7c35",
        "embeddings": embeddings,
        "texts": ["hello world"],
        "meta": {"api_version": {"version": str(version)}, "billed_units": {"input_tokens": 4}},
        "response_type": "embeddings_by_type" if isinstance(embeddings, dict) else "embeddings_floats",
    }
