"""Heroku's Managed Inference `/v1/embeddings`, with OpenAI's spellings of the same fields.

Source: devcenter.heroku.com/articles/heroku-inference-api-v1-embeddings, and docs/api.md for what is our own.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import orjson

from senryu.dialects.strict_json import kind, parse_object, shown
from senryu.errors import InvalidRequest
from senryu.types import Codes, EmbedRequest, EmbedResult, OutputType, Task, Truncate

E = TypeVar("E", bound=StrEnum)


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
    if not _boolean("allow_ignored_params", given.get("allow_ignored_params"), default=False):
        for name in given:
            if name not in FIELDS:
                raise InvalidRequest(
                    f"Unknown field {shown(name)}. Known are {', '.join(FIELDS)}; other fields are ignored "
                    "with 'allow_ignored_params': true."
                )
    values = {name: read(name, given.get(name)) for name, read in FIELDS.items()}
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


def _required(name: str, value: Any) -> Any:
    if value is None:
        raise InvalidRequest(f"'{name}' is required, and is missing or null.")
    return value


def _model(name: str, value: Any) -> str:
    value = _required(name, value)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"'{name}' must be the name of a model, as a string; it is {shown(value)}.")
    return _encodable(name, value)


def _input(name: str, value: Any) -> tuple[str, ...]:
    value = _required(name, value)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise InvalidRequest(f"'{name}' must be a string or an array of strings; it is {kind(value)}.")
    if not texts:
        raise InvalidRequest(f"'{name}' is an empty array; at least one string is required.")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRequest(f"{name}[{index}] must be a string; it is {kind(text)}.")
        if not text:
            raise InvalidRequest(
                f"{name}[{index}] is an empty string; every string needs at least one character."
            )
        _encodable(f"{name}[{index}]", text)
    return tuple(texts)


def _encodable(name: str, text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise InvalidRequest(
                f"{name} has a lone surrogate, U+{code:04X}, at character {error.start}; it is not valid Unicode."
            ) from None
    return text


def _one_of(enum: type[E], default: E, aliases: Mapping[str, str] | None = None) -> Callable[[str, Any], E]:
    allowed = (*enum, *(aliases or {}))

    def read(name: str, value: Any) -> E:
        if value is None:
            return default
        if isinstance(value, str) and value in allowed:
            return enum((aliases or {}).get(value, value))
        raise InvalidRequest(f"'{name}' is {shown(value)}; it must be one of {', '.join(allowed)}.")

    return read


def _output_type(name: str, value: Any) -> OutputType:
    if isinstance(value, list) and len(value) > 1:
        raise InvalidRequest(
            f"'{name}' names {len(value)} types; this path answers with one. POST /v2/embed answers with several."
        )
    if isinstance(value, list):
        value = value[0] if value and value[0] is not None else []  # neither is a type
    return _one_of(OutputType, OutputType.FLOAT)(name, value)


def _boolean(name: str, value: Any, *, default: bool) -> bool:
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"'{name}' must be true or false; it is {shown(value)}.")
    return value


def _dimensions(name: str, value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidRequest(f"'{name}' must be a whole number above 0; it is {shown(value)}.")
    return value


def _user(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"'{name}' must be a string; it is {kind(value)}.")


FIELDS: Mapping[str, Callable[[str, Any], Any]] = {
    "model": _model,
    "input": _input,
    "input_type": _one_of(Task, Task.SEARCH_DOCUMENT),
    "encoding_format": _one_of(Encoding, Encoding.RAW, {"float": "raw"}),
    "embedding_type": _output_type,
    "allow_ignored_params": lambda name, value: _boolean(name, value, default=False),
    "dimensions": _dimensions,
    "truncate": _one_of(Truncate, Truncate.END),
    "user": _user,
}


# ---- response -----------------------------------------------------------------------------------------------


def render(call: Call, result: EmbedResult, *, user_agent: str = "") -> bytes:
    """Write the answer, floats as the shortest decimals that give back the same float32."""
    (codes,) = result.embeddings.values()
    rows = _base64_rows(codes) if call.encoding is Encoding.BASE64 else list(codes)
    # NOTE: Heroku's own command line reads the plural key when it prints a vector.
    names = ("embedding", "embeddings") if user_agent.startswith("heroku-cli-plugin-ai/") else ("embedding",)
    answer = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index} | dict.fromkeys(names, row)
            for index, row in enumerate(rows)
        ],
        "model": result.model,
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64_rows(codes: Codes) -> list[str]:
    little_endian = codes.astype(codes.dtype.newbyteorder("<"), copy=False)
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in little_endian]


ERROR_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "authorization_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def render_error(status: int, message: str) -> bytes:
    """Write an error of any status in this dialect's one shape."""
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    error_type = ERROR_TYPES.get(status, fallback)
    return orjson.dumps({"error": {"code": status, "message": message, "type": error_type}})
