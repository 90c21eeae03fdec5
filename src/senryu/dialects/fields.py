"""What the dialects' fields have in common: how a value is read, and how a refusal names it. Knows no vendor's names.

A reader takes a field's name and value and returns what it means. It raises InvalidRequest naming the field, what was
given and what is allowed. Null is the default of every field that has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Any, NoReturn, TypeAlias, TypeVar

from senryu.dialects.strict_json import kind, shown
from senryu.errors import InvalidRequest

E = TypeVar("E", bound=StrEnum)

Reader: TypeAlias = Callable[[str, Any], Any]


class Fields(dict[str, Reader]):
    """The fields of a dialect, and what reads each. What one means that is not given is found out once."""

    def __init__(self, readers: Mapping[str, Reader]) -> None:
        super().__init__(readers)
        self._not_given: dict[str, Any] = {}
        for name, reader in readers.items():
            with suppress(InvalidRequest):  # a field that is required
                self._not_given[name] = reader(name, None)

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Read every field from a body. Raises InvalidRequest, with the field in `param`."""
        values = self._not_given.copy()
        name = ""
        try:
            for name, reader in self.items():
                value = given.get(name)
                if value is not None or name not in values:
                    values[name] = reader(name, value)
        except InvalidRequest as error:
            error.param = error.param or name
            raise
        return values


def refuse_unknown(given: Iterable[str], known: Iterable[str], advice: str = "") -> None:
    """Raise InvalidRequest for the first field that is not known."""
    for name in given:
        if name not in known:
            # NOTE: a name may hold a lone surrogate, which no answer can.
            param = name[:100].encode("utf-8", "backslashreplace").decode()
            raise InvalidRequest(f"Unknown field {shown(name)}. Known are {', '.join(known)}{advice}.", param)


def required(name: str, value: Any) -> Any:
    """Return a value that must be there."""
    if value is None:
        raise InvalidRequest(f"'{name}' is required, and is missing or null.")
    return value


def model(name: str, value: Any) -> str:
    """Read a model's name."""
    value = required(name, value)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"'{name}' must be the name of a model, as a string; it is {shown(value)}.")
    return encodable(name, value)


def texts(name: str, value: list[Any]) -> tuple[str, ...]:
    """Read an array of strings, none of them empty."""
    if not value:
        raise InvalidRequest(f"'{name}' is an empty array; at least one string is required.")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise InvalidRequest(f"{name}[{index}] must be a string; it is {kind(item)}.")
        if not item:
            raise InvalidRequest(
                f"{name}[{index}] is an empty string; every string needs at least one character."
            )
        encodable(f"{name}[{index}]", item)
    return tuple(value)


def encodable(name: str, text: str) -> str:
    """Return a text that is valid Unicode."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise InvalidRequest(
                f"{name} has a lone surrogate, U+{code:04X}, at character {error.start}; it is not valid Unicode."
            ) from None
    return text


def one_of(
    enum: type[E], default: E | None, aliases: Mapping[str, str] | None = None
) -> Callable[[str, Any], E]:
    """Return a reader of an enumeration; without a default the field is required."""
    allowed = (*enum, *(aliases or {}))

    def reader(name: str, value: Any) -> E:
        if value is None and default is not None:
            return default
        if isinstance(required(name, value), str) and value in allowed:
            return enum((aliases or {}).get(value, value))
        not_allowed(name, value, allowed)

    return reader


def not_allowed(name: str, value: Any, allowed: Iterable[str]) -> NoReturn:
    """Refuse a value that is none of those allowed."""
    raise InvalidRequest(f"'{name}' is {shown(value)}; it must be one of {', '.join(allowed)}.")


def boolean(name: str, value: Any) -> bool:
    """Read true or false, which is the default."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequest(f"'{name}' must be true or false; it is {shown(value)}.")
    return value


def whole_number(name: str, value: Any) -> int | None:
    """Read a whole number above 0, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidRequest(f"'{name}' must be a whole number above 0; it is {shown(value)}.")
    return value


def ignored_text(name: str, value: Any) -> None:
    """Read a text that nothing is done with."""
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"'{name}' must be a string; it is {kind(value)}.")
