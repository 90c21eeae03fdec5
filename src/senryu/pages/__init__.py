"""The pages for people: what runs, and the OpenAPI document made readable. Plain HTML that loads nothing.

Knows how a page is framed, and the policy that it is sent with. Knows neither the server's state nor what the
document says: it is handed both.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template

from senryu.pages.markup import code_block, inline
from senryu.pages.reference import Json, Reference

__all__ = ["CSP", "Home", "docs", "home"]


def _read(name: str) -> str:
    return files(__name__).joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


# NOTE: read at import, because the policy holds the hashes of what the pages carry.
_STYLE = _read("page.css")
_SCRIPT = _read("copy.js")
_FRAME, _HOME, _DOCS = (Template(_read(name)) for name in ("frame.html", "home.html", "docs.html"))

# The Content-Security-Policy to send both pages with.
CSP = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_LANGUAGES = {"en": "English"}  # other codes are shown as they are


@dataclass(frozen=True, slots=True)
class Home:
    """What the home page says. `url` is the origin that clients use, `curl` the command to paste."""

    version: str
    url: str
    model_id: str
    model_description: str
    dimensions: int
    max_tokens: int
    languages: tuple[str, ...]
    precision: str
    engine: str
    fingerprint: str
    curl: str
    ready: bool = True


def home(context: Home) -> str:
    """Return the page for GET /."""
    body = _HOME.substitute(
        state="here" if context.ready else "away",
        status="Ready" if context.ready else "Not ready",
        model_id=escape(context.model_id),
        model_description=inline(context.model_description),
        dimensions=f"{context.dimensions:,}",
        max_tokens=f"{context.max_tokens:,}",
        languages=escape(", ".join(_LANGUAGES.get(code, code) for code in context.languages) or "unknown"),
        precision=escape(context.precision),
        engine=escape(context.engine),
        curl=code_block(context.curl, "Paste this into a terminal", copy=True),
        url=escape(context.url),
        fingerprint=escape(context.fingerprint),
    )
    return _page(f"Senryu · {context.model_id}", context.version, body)


def docs(document: Json) -> str:
    """Return the page for GET /docs, from an OpenAPI document as `senryu.openapi` writes it."""
    parts = Reference(document).parts()
    return _page("Senryu · API reference", document["info"]["version"], _DOCS.substitute(parts))


def _page(title: str, version: str, body: str) -> str:
    return _FRAME.substitute(
        title=escape(title), version=escape(version), style=_STYLE, script=_SCRIPT, body=body
    )
