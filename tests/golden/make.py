"""Write golden vectors of the default model, computed in float64 by the tests' own reference.

Usage: python tests/golden/make.py MODEL_FOLDER > tests/golden/all-minilm-l6-v2.json
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import Reference

TEXTS = (
    "hello world",
    "The frog jumps into the old pond.",
    "x",
    " \n\t",
    "  white space\taround and   within \n",
    "NUL \u0000 is dropped, and so is \u200d this.",
    "Crème brûlée à la carte, Straße, İstanbul, ﬁne ligatures",
    "古池や蛙飛びこむ水の音",
    "閑さや 岩にしみ入る 蝉の声, a silence",
    "Тихо плещет вода старого пруда",
    "काव्य और जल",
    "🐸🌊 emoji are unknown to this vocabulary",
    "pneumonoultramicroscopicsilicovolcanoconiosis " * 3,
    "a" * 150,
    "def f(x): return {'a': [x ** 2, not x], \"b\": None}  # code",
    "An old silent pond, and then a frog leaps in; the sound of the water is heard. " * 6,
    "one two three four five six seven eight nine ten " * 40,
)


def main() -> None:
    """Print the golden file."""
    reference = Reference(Path(sys.argv[1]))
    print(json.dumps([case(reference, text) for text in TEXTS], indent=1))


def case(reference: Reference, text: str) -> dict[str, object]:
    """Return a text, how many tokens the model reads of it, whether it was cut, and its vector."""
    ids = reference.ids(text)
    return {
        "text": text,
        "tokens": len(ids),
        "truncated": len(reference.all_ids(text)) > len(ids),
        "float32": base64.b64encode(reference.embed(text).astype("<f4").tobytes()).decode(),
    }


if __name__ == "__main__":
    main()
