"""Hugging Face, or a mirror of it, as a source: HTTP with a deadline for the first byte, and resumption.

NOTE: not huggingface_hub's `hf_hub_download`: it waits 10 s and more for a source that does not answer, drops
a partial file when it gives up, and cannot be told the sha256 to expect.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage, HTTPResponse
from queue import Empty, SimpleQueue
from typing import IO, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from senryu import __version__
from senryu.errors import SettingError
from senryu.models import CatalogEntry
from senryu.pull.staging import SourceRefused, Staging, WrongFile, readable

HUGGING_FACE = "https://huggingface.co"
ANSWER_SECONDS = 3.0  # to connect and send the first byte; after that the next source is tried
STALL_SECONDS = 10.0  # between two pieces of a file
PAUSE_SECONDS = 1.0  # before a source that answered at first is asked again
ATTEMPTS = 5  # at one file, each continuing where the last was cut
CHUNK_BYTES = 1 << 18
MAIN = "main"  # the revision of a model that is named without one


@dataclass(frozen=True, slots=True)
class HubSettings:
    """Where Hugging Face is, and who asks; the variables are huggingface_hub's own."""

    endpoint: str = HUGGING_FACE
    token: str | None = field(default=None, repr=False)
    offline: bool = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> HubSettings:
        """Read HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. Raises SettingError naming the one that is wrong."""
        endpoint = environ.get("HF_ENDPOINT") or HUGGING_FACE
        if not _is_bare_address(endpoint):
            raise SettingError("HF_ENDPOINT: it takes an http or https address without a user or a query.")
        token = environ.get("HF_TOKEN", "").strip() or None
        # NOTE: http.client would put a token that no header can carry into its error message.
        if token and not (token.isascii() and token.isprintable()):
            raise SettingError("HF_TOKEN: that is not allowed; it takes printable ASCII characters.")
        offline = environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        return cls(endpoint.rstrip("/"), token, offline)


def _is_bare_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # an IPv6 address without its bracket
        return False
    is_http = parts.scheme in ("http", "https") and bool(parts.hostname)
    return is_http and not (parts.username or parts.query)


class NoAnswer(SourceRefused):
    """Raise when a source does not answer in time, or not at all."""


class Cut(SourceRefused):
    """Raise when a download ends too early."""


class HubSource:
    """Hugging Face, or a mirror of it: <endpoint>/<model>/resolve/<revision>/<file>."""

    def __init__(self, hub: HubSettings, answer_seconds: float = ANSWER_SECONDS) -> None:
        mirror = "" if hub.endpoint == HUGGING_FACE else f" (the mirror {urlsplit(hub.endpoint).netloc})"
        self.name = "Hugging Face" + mirror
        self._hub = hub
        self._answer_seconds = answer_seconds
        self._has_answered = False  # a source that has is asked again when it is slow once

    def fetch(self, entry: CatalogEntry, staging: Staging) -> None:
        for path in staging.missing():
            url = f"{self._hub.endpoint}/{entry.hf_id}/resolve/{quote(entry.revision or MAIN, '')}/{quote(path)}"
            self._download(url, path, staging)

    def read(self, path: str, most: int) -> bytes:
        """Return what stands below the endpoint. Raises SourceRefused, also if it is over `most` bytes."""
        with self._ask(f"{self._hub.endpoint}/{path}", 0) as response:
            content = b""
            with suppress(OSError, HTTPException):
                content = response.read(most + 1)
            if not content or len(content) > most or response.length:
                raise Cut(f"cut {path} off, or has more than {readable(most)} there")
        return content

    def _download(self, url: str, path: str, staging: Staging) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            resumed = False
            try:
                resumed = self._continue(url, path, staging)
                return staging.accept(path)
            except WrongFile:
                # NOTE: a part that an earlier run or another revision left may be at fault, not this source.
                if not resumed or attempt == ATTEMPTS:
                    raise
            except (Cut, NoAnswer) as error:
                if attempt == ATTEMPTS or not self._has_answered:
                    raise
                staging.progress.notice(f"{self.name} {error}; going on from there.")
                if isinstance(error, NoAnswer):
                    time.sleep(PAUSE_SECONDS)
        return None

    def _continue(self, url: str, path: str, staging: Staging) -> bool:
        """Complete a file's part, or raise Cut; tell whether some of it was there before."""
        part, pin = staging.part(path), staging.files[path]
        here = part.stat().st_size if part.exists() else 0
        if part.exists() and here == pin.size:
            return True
        with self._ask(url, here if here < pin.size else 0) as response:
            offset = here if _starts_at(response, here) else 0
            if response.length is not None and offset + response.length != pin.size:
                raise WrongFile(
                    f"has another {path}: expected {pin.size} bytes, got {offset + response.length}"
                )
            end = staging.write(path, _chunks(response), offset)
        if end < pin.size:
            raise Cut(f"cut {path} off at {readable(end)} of {readable(pin.size)}")
        return offset > 0

    def _ask(self, url: str, offset: int) -> HTTPResponse:
        headers = {"User-Agent": f"senryu/{__version__}", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        if self._hub.token:
            headers["Authorization"] = f"Bearer {self._hub.token}"
        try:
            response = _open(Request(url, headers=headers), self._answer_seconds)  # noqa: S310  (checked in HubSettings)
        except HTTPError as error:
            error.close()
            raise SourceRefused(_status(error, bool(self._hub.token))) from None
        except URLError as error:
            raise NoAnswer(f"does not answer ({_reason(error.reason)})") from None
        except (OSError, HTTPException, ValueError) as error:
            raise NoAnswer(f"does not answer ({_reason(error)})") from None
        self._has_answered = True
        return response


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, counts each as an answer, and keeps the token from other hosts."""

    def __init__(self, on_redirect: Callable[[], None]) -> None:
        self._on_redirect = on_redirect

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        self._on_redirect()
        if urlsplit(newurl).scheme not in ("http", "https"):
            return None  # which fails as the bare redirect
        redirected = super().redirect_request(req, fp, code, msg, headers, newurl)
        if redirected and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            redirected.remove_header("Authorization")
        return redirected


_Answer: TypeAlias = HTTPResponse | Exception | None  # None: redirected, the next host has its time anew


def _open(request: Request, answer_seconds: float) -> HTTPResponse:
    """Return a response whose first byte is here. Raises TimeoutError if it does not come in time.

    NOTE: a socket's timeout bounds neither the name's resolution nor a host with many addresses, so the
    request is made on a thread that is left behind when the time is over.
    """
    answers: SimpleQueue[_Answer] = SimpleQueue()
    left_behind = threading.Event()

    def ask() -> None:
        opener = build_opener(_Redirects(lambda: answers.put(None)))
        try:
            response = opener.open(request, timeout=STALL_SECONDS)
            response.peek(1)
        except Exception as error:
            answers.put(error)
        else:
            answers.put(response)
        if left_behind.is_set():
            _close_all(answers)

    threading.Thread(target=ask, name="pull", daemon=True).start()
    answer: _Answer = None
    while answer is None:
        try:
            answer = answers.get(timeout=answer_seconds)
        except Empty:
            left_behind.set()
            _close_all(answers)
            raise TimeoutError(f"nothing within {answer_seconds:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _close_all(answers: SimpleQueue[_Answer]) -> None:
    with suppress(Empty):
        while True:
            if isinstance(answer := answers.get_nowait(), HTTPResponse | HTTPError):
                answer.close()


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the body as far as it comes: how much that is, the caller counts."""
    with suppress(OSError, HTTPException):
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk


def _starts_at(response: HTTPResponse, offset: int) -> bool:
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _reason(error: str | BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _status(error: HTTPError, has_token: bool) -> str:
    """Put a status in words. Hugging Face says in a header what it is about, where it tells strangers at all."""
    code, about = error.code, error.headers.get("X-Error-Code")
    model = re.search(r"/([^/]+/[^/]+)/(?:resolve|revision)/", error.url or "")
    page = f"{HUGGING_FACE}/{model[1]}" if model else HUGGING_FACE
    if about == "GatedRepo":
        asked = "HF_TOKEN's owner has not accepted it" if has_token else "then set HF_TOKEN"
        return f"answers {code} (the model's licence has to be accepted at {page}; {asked})"
    if about in ("RepoNotFound", "RevisionNotFound", "EntryNotFound"):
        what = {"RepoNotFound": "model", "RevisionNotFound": "revision", "EntryNotFound": "file"}[about]
        private = ", or it is private and needs HF_TOKEN" if what == "model" and not has_token else ""
        return f"answers {code} (no such {what} at {page}{private})"
    if code in (401, 403):
        hint = (
            "HF_TOKEN has no access to the model" if has_token else "the model may need a token: set HF_TOKEN"
        )
        return f"answers {code} ({hint})"
    return f"answers {code}" + (" (no such model, revision or file)" if code == 404 else "")
