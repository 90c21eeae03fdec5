"""The texts that int8 is calibrated with, and those held back to measure its loss: built-in ones, or a person's file.

Knows lines and bounds; nothing of tokens, models or what is done with a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

from senryu.errors import SetupError

BUILT_IN = "built-in texts"

HELD_BACK = 4  # each so many-th text measures the loss, and is not calibrated with
FEWEST_TEXTS = 64  # fewer would leave less than 16 to measure with, of which ten nearest say nothing
MOST_TEXTS = 2_000
MOST_BYTES = 16 << 20  # of a file that are read


@dataclass(frozen=True, slots=True)
class Texts:
    """Distinct texts, in order: those to calibrate with, and those that were held back to measure the loss."""

    source: str
    calibrating: tuple[str, ...]
    held_back: tuple[str, ...]
    found: int  # distinct texts that were read; more than both together where only a part is used
    cut: bool = False  # the file is longer than what was read


def built_in() -> Texts:
    """Return the texts that ship with the package; written for this purpose, in English and thirty other languages."""
    content = package_files("senryu").joinpath("calibration/texts.txt").read_text("utf-8")
    return _split(BUILT_IN, _distinct(content))


def read_texts(path: Path) -> Texts:
    """Read a text a line: the first 16 MiB, and of a text that is there twice the first; of many, 2,000 spread evenly.

    Raises SetupError for a file that cannot be read, is no text, or has fewer than FEWEST_TEXTS.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}.") from None
    cut = len(content) > MOST_BYTES
    if cut:  # NOTE: up to the last line's end, so that no text and no character is cut in two
        content = content[: content.rfind(b"\n", 0, MOST_BYTES) + 1]
    texts = _distinct(_decode(path, content))
    if len(texts) < FEWEST_TEXTS:
        raise SetupError(
            f"{path}: has {_counted(texts)} (one a line, equal ones counted once, in the first "
            f"{MOST_BYTES >> 20} MiB); at least {FEWEST_TEXTS} are needed, of the kind that will be embedded. "
            "Without --data the built-in texts are used."
        )
    return _split(str(path), texts, cut=cut)


def _counted(texts: Sequence[str]) -> str:
    return "no text" if not texts else "1 text" if len(texts) == 1 else f"{len(texts)} texts"


def _decode(path: Path, content: bytes) -> str:
    if b"\0" in content:
        raise SetupError(f"{path}: is a binary file; --data takes UTF-8 text, one text a line.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SetupError(
            f"{path}: line {line} is not UTF-8 ({error.reason}); --data takes UTF-8 text, one text a line."
        ) from None


def _distinct(content: str) -> list[str]:
    return list(dict.fromkeys(text for line in content.split("\n") if (text := line.strip())))


def _split(source: str, texts: Sequence[str], *, cut: bool = False) -> Texts:
    used = texts
    if len(texts) > MOST_TEXTS:
        used = [texts[index * len(texts) // MOST_TEXTS] for index in range(MOST_TEXTS)]
    held_back = used[HELD_BACK - 1 :: HELD_BACK]
    calibrating = [text for index, text in enumerate(used) if index % HELD_BACK != HELD_BACK - 1]
    return Texts(source, tuple(calibrating), tuple(held_back), len(texts), cut)
