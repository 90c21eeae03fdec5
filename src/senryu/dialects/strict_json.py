"""JSON as the contract reads it: UTF-8 with or without BOM, no duplicate keys, no NaN, nothing nested deeply.

The standard library's parser, because the faster ones keep the last of two duplicate keys in silence.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from typing import Any, NoReturn

from senryu.errors import InvalidRequest

MAX_DEPTH = 32
_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def kind(value: Any) -> str:
    """Name a value's JSON type, for messages."""
    return _KINDS.get(type(value), "a number")


def shown(value: Any) -> str:
    """Show a value in a message: short, in ASCII, whatever it holds."""
    text = json.dumps(value) if not isinstance(value, dict | list) else kind(value)
    return text if len(text) <= 100 else text[:100] + "…"


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a body that must be a JSON object. Raises InvalidRequest saying what is wrong and where."""
    skipped = len(BOM_UTF8) if body.startswith(BOM_UTF8) else 0
    try:
        text = body[skipped:].decode()
    except UnicodeDecodeError as error:
        place = skipped + error.start
        raise InvalidRequest(f"The body is not UTF-8: byte 0x{body[place]:02x} at {place}.") from None
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # a number of thousands of digits
        raise InvalidRequest(f"The body is not JSON that can be read: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object; it is {kind(value)}.")
    _check_depth(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidRequest(f"The body has the key {shown(twice)} more than once.")
    return found


def _number(text: str) -> float:
    """Read 608.0 as 608: JSON has one kind of number, and JSON Schema calls both an integer."""
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number


def _constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body is not JSON: {name} is not a JSON number.")


def _check_depth(value: Any) -> None:
    """Refuse deep nesting at a fixed depth, not where the interpreter's stack happens to end."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The body is nested too deeply; at most {MAX_DEPTH} levels are allowed.")


_DECODER = json.JSONDecoder(parse_float=_number, object_pairs_hook=_object, parse_constant=_constant)
