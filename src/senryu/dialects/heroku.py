"""Heroku's Managed Inference `/v1/embeddings`, with OpenAI's spellings of the same fields.

Source: devcenter.heroku.com/articles/heroku-inference-api-v1-embeddings, and docs/api.md for what is our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from senryu.dialects import Dialect, Fault
from senryu.dialects.fields import (
    Fields,
    boolean,
    ignored_text,
    model,
    one_of,
    refuse_unknown,
    required,
    texts,
    whole_number,
)
from senryu.dialects.strict_json import kind, parse_object, shown
from senryu.dialects.vectors import array, base64_rows, dumps
from senryu.errors import BodyTooLarge, InputTooLong, InvalidRequest, TooManyInputs, UnknownTokenId
from senryu.types import EmbedRequest, EmbedResult, Inputs, OutputType, Task, Truncate


class Encoding(StrEnum):
    """How a vector is written into the JSON answer."""

    RAW = "raw"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed body: what to compute, and how to write the answer."""

    request: EmbedRequest
    encoding: Encoding


# ---- request ------------------------------------------------------------------------------------------------


def parse(body: bytes) -> Call:
    """Read a request. Raises InvalidRequest naming the field, what was given and what is allowed."""
    given = parse_object(body)
    if not boolean("allow_ignored_params", given.get("allow_ignored_params")):
        refuse_unknown(given, FIELDS, "; other fields are ignored with 'allow_ignored_params': true")
    values = FIELDS.read(given)
    return Call(
        EmbedRequest(
            model=values["model"],
            inputs=values["input"],
            task=values["input_type"],
            output_types=(values["embedding_type"],),
            dimensions=values["dimensions"],
            truncate=values["truncate"],
        ),
        values["encoding_format"],
    )


def _input(name: str, value: Any) -> Inputs:
    value = required(name, value)
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise InvalidRequest(
            f"'{name}' must be a string, an array of strings, or token ids; it is {kind(value)}."
        )
    if items and type(items[0]) is int:
        return (_token_ids(name, items),)
    if items and isinstance(items[0], list):
        return tuple(_token_ids(f"{name}[{index}]", item) for index, item in enumerate(items))
    return texts(name, items)


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    """Read one text as ids; whether the model has them is only known with the model."""
    if not isinstance(value, list):
        raise InvalidRequest(f"{name} must be an array of token ids, as the others are; it is {kind(value)}.")
    if not value:
        raise InvalidRequest(f"{name} is an empty array; every input needs at least one token id.")
    for index, token_id in enumerate(value):
        if type(token_id) is not int or token_id < 0:
            raise InvalidRequest(
                f"{name}[{index}] must be a token id, a whole number from 0 on; it is {shown(token_id)}."
            )
    return tuple(value)


def _output_type(name: str, value: Any) -> OutputType:
    if isinstance(value, list) and len(value) > 1:
        raise InvalidRequest(
            f"'{name}' names {len(value)} types; this path answers with one. POST /v2/embed answers with several."
        )
    if isinstance(value, list):
        value = value[0] if value and value[0] is not None else []  # neither is a type
    return _one_output_type(name, value)


_one_output_type = one_of(OutputType, OutputType.FLOAT)

FIELDS = Fields(
    {
        "model": model,
        "input": _input,
        "input_type": one_of(Task, Task.SEARCH_DOCUMENT),
        "encoding_format": one_of(Encoding, Encoding.RAW, {"float": "raw"}),
        "embedding_type": _output_type,
        "allow_ignored_params": boolean,
        "dimensions": whole_number,
        "truncate": one_of(Truncate, Truncate.END),
        "user": ignored_text,
    }
)


# ---- response -----------------------------------------------------------------------------------------------


def render(call: Call, result: EmbedResult, *, user_agent: str = "", request_id: str = "") -> bytes:
    """Write the answer."""
    (codes,) = result.embeddings.values()
    rows = base64_rows(codes) if call.encoding is Encoding.BASE64 else list(codes)
    # NOTE: Heroku's own command line reads the plural key when it prints a vector.
    names = ("embedding", "embeddings") if user_agent.startswith("heroku-cli-plugin-ai/") else ("embedding",)
    items = [
        {"object": "embedding", "index": index} | dict.fromkeys(names, row) for index, row in enumerate(rows)
    ]
    return dumps(
        {
            "object": "list",
            "data": array(items),
            "model": result.model,
            "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
        }
    )


ERROR_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "authorization_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_type(status: int) -> str:
    """Return the `type` of an error."""
    return ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


OTHER_PATH = "POST /openai/v1/embeddings takes 2048 inputs of any length (base URL <origin>/openai/v1)."
OWN_IDS = (
    "Token ids are taken as ids of the model's own vocabulary. LangChain's OpenAIEmbeddings sends those of another "
    "one unless it is given check_embedding_ctx_length=False."
)


def message(error: Exception, call: Any = None) -> str:
    """Say an error, with the way out where OpenAI's clients have one."""
    match error:
        case TooManyInputs() | InputTooLong() | BodyTooLarge():
            return f"{error} {OTHER_PATH}"
        case UnknownTokenId():
            return f"{error} {OWN_IDS}"
    return str(error)


def render_error(status: int, message: str) -> bytes:
    """Write an error of any status in this dialect's one shape."""
    return dumps({"error": {"code": status, "message": message, "type": error_type(status)}})


def _render_fault(fault: Fault) -> bytes:
    return render_error(fault.status, fault.message)


DIALECT = Dialect(parse, render, message, _render_fault)
