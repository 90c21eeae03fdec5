"""A request's head that comes again on its connection: known by its bytes, so that nobody has to parse it anew.

Clients send the same head with every request, but for the length of its body. Knows bytes, and what a parser once made
of them; nothing of connections, routes or bodies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Longer heads are parsed each time.
MOST_BYTES = 4096
MOST_DIGITS = 9
# One after the other; after so many a connection's heads are not kept any more.
UNKNOWN_HEADS = 8

_END = b"\r\n\r\n"
_LENGTH = b"content-length"


class Heads:
    """One connection's memory: of the last head that could be kept."""

    def __init__(self) -> None:
        self._known: KnownHead | None = None
        self._unknown = 0

    def read(self, data: bytes) -> tuple[bytes, dict[str, Any], int] | None:
        """Return the URL and the scope of a whole request, all of `data`, and where its body begins; None: unknown."""
        read = self._known.read(data) if self._known is not None else None
        if self._known is None or read is None:
            return None
        self._unknown = 0
        headers, body = read
        return self._known.url, {**self._known.scope, "headers": headers}, body

    @property
    def are_kept(self) -> bool:
        """Tell whether it is worth while to keep another."""
        return self._unknown < UNKNOWN_HEADS

    def keep(self, data: bytes, url: bytes, scope: Mapping[str, Any]) -> None:
        """Keep the head of a request that a parser has read, and that was all of `data`.

        NOTE: it holds the client's key; so none is kept any more where heads differ each time.
        """
        self._unknown += 1
        self._known = known(data, url, scope) if self.are_kept else None


@dataclass(frozen=True, slots=True)
class KnownHead:
    """A head in its bytes around the digits of its content-length, and what it means."""

    before: bytes
    behind: bytes  # up to the body
    url: bytes
    scope: Mapping[str, Any]  # of its request, but for the headers
    headers: tuple[tuple[bytes, bytes], ...]
    place: int  # of content-length among them

    def read(self, data: bytes) -> tuple[list[tuple[bytes, bytes]], int] | None:
        """Return the headers of a whole request that is all of `data`, and where its body begins.

        None for anything that differs from the known head in more than the number: that is the parser's.
        """
        before = len(self.before)
        end = data.find(b"\r", before, before + MOST_DIGITS + 1)
        digits = data[before:end] if end >= 0 else b""
        if not (data.startswith(self.before) and digits.isdigit() and data.startswith(self.behind, end)):
            return None
        body = end + len(self.behind)
        if len(data) - body != int(digits):
            return None
        headers = [*self.headers]
        headers[self.place] = (_LENGTH, digits)
        return headers, body


def known(data: bytes, url: bytes, scope: Mapping[str, Any]) -> KnownHead | None:
    """Return the head of a request that a parser has read, and that was all of `data`; None for one of another kind."""
    end = data.find(_END, 0, MOST_BYTES)
    head = data[: end + len(_END)].lower()
    headers = tuple(scope["headers"])
    names = [name for name, _ in headers]
    at = head.find(b"\r\n" + _LENGTH + b": ")
    # NOTE: what has the name twice, folded lines or bare line feeds is left to those who know what it means.
    is_plain = head[:1].isalpha() and head.count(b"\n") == len(headers) + 2 == head.count(b"\r")
    if end < 0 or at < 0 or not is_plain or names.count(_LENGTH) != 1 or b"transfer-encoding" in names:
        return None
    start = at + len(_LENGTH) + 4
    stop = head.find(b"\r", start)
    if not head[start:stop].isdigit() or len(data) - len(head) != int(head[start:stop]):
        return None
    lasting = {name: value for name, value in scope.items() if name != "headers"}
    return KnownHead(data[:start], data[stop : len(head)], url, lasting, headers, names.index(_LENGTH))
