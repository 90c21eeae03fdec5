"""Cohere's `/v1/embed` and `/v2/embed`: several embedding types from one forward pass, and errors in Cohere's shape.

Source: docs.cohere.com/reference/embed, and what cohere-python sends and reads. There is no limit of characters here:
a text is cut to what the model reads, as `truncate` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from senryu.dialects import WIDE_BODY_BYTES, Dialect, Fault
from senryu.dialects.fields import (
    Fields,
    Reader,
    encodable,
    model,
    not_allowed,
    one_of,
    refuse_unknown,
    required,
    texts,
    whole_number,
)
from senryu.dialects.strict_json import kind, parse_object, shown
from senryu.dialects.vectors import array, base64_rows, dumps
from senryu.errors import InvalidRequest, TooManyInputs
from senryu.types import EmbedRequest, EmbedResult, Limits, OutputType, Task, Truncate

LIMITS = Limits()  # as many texts as the resource allows, of any length
BASE64 = "base64"  # the floats' bytes; a type of its own here
EMBEDDING_TYPES = (*(output_type.value for output_type in OutputType), BASE64)
HIGHEST_PRIORITY, LOWEST_PRIORITY = 0, 999


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed body. `wanted` None is v1's plain array of floats."""

    request: EmbedRequest
    version: int
    wanted: tuple[str, ...] | None
    field: str  # that held the texts


# ---- request ------------------------------------------------------------------------------------------------


def parse_v1(body: bytes) -> Call:
    """Read a v1 request. Raises InvalidRequest naming the field, what was given and what is allowed."""
    values = _read(V1_FIELDS, body)
    return _call(values, 1, "texts", required("texts", values["texts"]), values["embedding_types"])


def parse_v2(body: bytes) -> Call:
    """Read a v2 request. Raises InvalidRequest naming the field, what was given and what is allowed."""
    values = _read(V2_FIELDS, body)
    given = [name for name in ("texts", "inputs") if values[name] is not None]
    if len(given) != 1:
        raise InvalidRequest(
            f"One of 'texts' and 'inputs' is required; {'both' if given else 'none'} was given."
        )
    wanted = values["embedding_types"] or (OutputType.FLOAT.value,)
    return _call(values, 2, given[0], values[given[0]], wanted)


def _read(fields: Fields, body: bytes) -> dict[str, Any]:
    given = parse_object(body)
    refuse_unknown(given, fields)
    return fields.read(given)


def _call(values: Mapping[str, Any], version: int, field: str, inputs: tuple[str, ...], wanted: Any) -> Call:
    output_types = (_output_type(name) for name in wanted or (OutputType.FLOAT,))
    request = EmbedRequest(
        model=values["model"],
        inputs=inputs,
        task=values["input_type"],
        output_types=tuple(dict.fromkeys(output_types)),
        dimensions=values.get("output_dimension"),
        truncate=values["truncate"],
        max_tokens=values.get("max_tokens"),
        limits=LIMITS,
    )
    return Call(request, version, wanted, field)


def _output_type(name: str) -> OutputType:
    return OutputType.FLOAT if name == BASE64 else OutputType(name)


def _array(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest(f"'{name}' must be an array; it is {kind(value)}.")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...] | None:
    return None if value is None else texts(name, _array(name, value))


def _inputs(name: str, value: Any) -> tuple[str, ...] | None:
    """Read inputs of parts; the text parts of one input are one text, a line each."""
    if value is None:
        return None
    inputs = _array(name, value)
    return texts(name, ["\n".join(_parts(f"{name}[{index}]", item)) for index, item in enumerate(inputs)])


def _parts(name: str, value: Any) -> list[str]:
    if not isinstance(value, dict) or list(value) != ["content"] or not isinstance(value["content"], list):
        raise InvalidRequest(f"{name} must be an object with an array 'content', and nothing else.")
    if not value["content"]:
        raise InvalidRequest(f"{name}.content is an empty array; at least one text is required.")
    return [_part(f"{name}.content[{index}]", part) for index, part in enumerate(value["content"])]


def _part(name: str, value: Any) -> str:
    if isinstance(value, dict) and value.get("type") == "image_url":
        raise InvalidRequest(f"{name} is an image. {NO_IMAGES}")
    if not isinstance(value, dict) or value.get("type") != "text" or value.keys() != {"type", "text"}:
        raise InvalidRequest(f'{name} must be {{"type": "text", "text": "…"}}, and nothing else.')
    if not isinstance(value["text"], str):
        raise InvalidRequest(f"{name}.text must be a string; it is {kind(value['text'])}.")
    if not value["text"]:
        raise InvalidRequest(f"{name}.text is an empty string; every text needs at least one character.")
    return encodable(f"{name}.text", value["text"])


NO_IMAGES = "Images are not served here: the models read text. Send 'texts'."


def _no_images(name: str, value: Any) -> None:
    if value is not None and value != []:
        raise InvalidRequest(f"'{name}' is given. {NO_IMAGES}")


def _task(default: Task | None) -> Reader:
    reader = one_of(Task, default)

    def read_task(name: str, value: Any) -> Task:
        if value == "image":
            raise InvalidRequest(f"'{name}' is \"image\". {NO_IMAGES}")
        return reader(name, value)

    return read_task


def _embedding_types(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = _array(name, value)
    if not names:
        raise InvalidRequest(
            f"'{name}' is an empty array; it takes one or more of {', '.join(EMBEDDING_TYPES)}."
        )
    for index, item in enumerate(names):
        if not isinstance(item, str) or item not in EMBEDDING_TYPES:
            not_allowed(f"{name}[{index}]", item, EMBEDDING_TYPES)
    return tuple(dict.fromkeys(names))


def _priority(name: str, value: Any) -> None:
    """Read what is not used: keys are served fairly, whatever they ask for."""
    if value is None:
        return
    if type(value) is not int or not HIGHEST_PRIORITY <= value <= LOWEST_PRIORITY:
        bounds = f"{HIGHEST_PRIORITY} to {LOWEST_PRIORITY}"
        raise InvalidRequest(f"'{name}' must be a whole number from {bounds}; it is {shown(value)}.")


V1_FIELDS = Fields(
    {
        "model": model,
        "images": _no_images,
        "texts": _texts,
        "input_type": _task(Task.SEARCH_DOCUMENT),
        "embedding_types": _embedding_types,
        "truncate": one_of(Truncate, Truncate.END),
    }
)
V2_FIELDS = Fields(
    {
        **V1_FIELDS,
        "inputs": _inputs,
        "input_type": _task(None),
        "output_dimension": whole_number,
        "max_tokens": whole_number,
        "priority": _priority,
    }
)


# ---- response -----------------------------------------------------------------------------------------------


def render(call: Call, result: EmbedResult, *, user_agent: str = "", request_id: str = "") -> bytes:
    """Write the answer, in the form of its version."""
    vectors = {name: _rows(name, result) for name in call.wanted or (OutputType.FLOAT.value,)}
    return dumps(
        {
            "id": request_id,
            "embeddings": vectors if call.wanted else vectors[OutputType.FLOAT.value],
            "texts": call.request.inputs,
            "meta": {
                "api_version": {"version": str(call.version)},
                "billed_units": {"input_tokens": result.prompt_tokens},
            },
            "response_type": "embeddings_by_type" if call.wanted else "embeddings_floats",
        }
    )


def _rows(name: str, result: EmbedResult) -> Any:
    codes = result.embeddings[_output_type(name)]
    return array(base64_rows(codes) if name == BASE64 else list(codes))


# What the stages call a field, and what it is called here.
OWN_NAMES: Mapping[str, tuple[str, str]] = {
    "input": ("input[", "{field}["),
    "dimensions": ("'dimensions'", "'output_dimension'"),
}


def message(error: Exception, call: Call | None = None) -> str:
    """Say an error in Cohere's words where it has some, and with the names that the fields have here."""
    match error:
        case TooManyInputs():
            return f"total number of texts must be at most {error.allowed} - received {error.given}"
        case InvalidRequest(param=str(param)) if param in OWN_NAMES:
            theirs, ours = OWN_NAMES[param]
            return str(error).replace(theirs, ours.format(field=call.field if call else "texts"), 1)
    return str(error)


def render_error(fault: Fault) -> bytes:
    """Write an error of any status in Cohere's one shape."""
    return dumps({"id": fault.request_id, "message": fault.message})


V1 = Dialect(parse_v1, render, message, render_error, WIDE_BODY_BYTES)
V2 = Dialect(parse_v2, render, message, render_error, WIDE_BODY_BYTES)
