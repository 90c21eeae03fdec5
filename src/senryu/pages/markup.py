"""Text → HTML: escaping, the few marks that the descriptions use, blocks of code. Knows no page."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

_ARRAY = re.compile(r"\[\s+([^][{}]*?)\s+\]")


def inline(text: str) -> str:
    """Return escaped text, with `code` between backticks marked up."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def prose(text: str) -> str:
    """Return paragraphs, which blank lines part."""
    return "\n".join(f"<p>{inline(paragraph)}</p>" for paragraph in text.split("\n\n"))


def pretty(value: Any) -> str:
    """Return JSON, indented, with arrays of plain values on one line; a string as it is."""
    if isinstance(value, str):
        return value
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _ARRAY.sub(lambda array: f"[{' '.join(array[1].split())}]", text)


def code_block(text: str, caption: str, *, copy: bool = False) -> str:
    """Return a captioned block of text, with a button that the script shows where it can copy."""
    button = '<button type="button" class="copy" aria-live="polite" hidden>Copy</button>' if copy else ""
    return (
        f'<figure class="code"><figcaption><span>{inline(caption)}</span>{button}</figcaption>'
        f"<pre><code>{escape(text)}</code></pre></figure>"
    )


def entry(name: str, kind: str, says: str, limits: str = "", *, anchor: str = "") -> str:
    """Return one row of a field list. Only `name` is escaped here; the others are HTML."""
    ident = f' id="{escape(anchor)}"' if anchor else ""
    last = f'<dd class="limits">{limits}</dd>' if limits else ""
    head = f'<dt>{escape(name)}</dt><dd class="type">{kind}</dd>'
    return f'<div{ident}>{head}<dd class="says">{says}</dd>{last}</div>'
