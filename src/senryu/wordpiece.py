"""BERT's tokenizer for the words that most texts are made of: the library's ids, at a tenth of its cost.

Plain words are read here and remembered. Everything else (other alphabets, control characters, special tokens) is left
to the library, whole or in the pieces between two spaces. Knows words and ids; no text's length.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

MOST_KNOWN = 1 << 14  # words that are remembered, and pieces, 8 MB together; then it begins anew
LONGEST_KNOWN = 32  # characters of what is remembered: a text may be one word, and a whole body long
LONGEST_PIECE = 32  # characters of one that the library reads; a longer one is a text of its own kind
MOST_PIECES = 1 / 4  # of a text's pieces that the library reads; a text with more is left to it whole

_words = re.compile("[A-Za-z0-9]+|[^A-Za-z0-9 ]").findall  # of printable ASCII, as BertPreTokenizer splits it


def reader(tokenizer: Tokenizer) -> WordPiece | None:
    """Return what reads plain text as a tokenizer does; None for a tokenizer of another kind."""
    normalizer, model = tokenizer.normalizer, tokenizer.model
    if not (
        isinstance(normalizer, normalizers.BertNormalizer)
        and normalizer.clean_text
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(model, models.WordPiece)
        and model.token_to_id(model.unk_token) is not None  # without one a word can be unreadable
    ):
        return None
    return WordPiece(tokenizer, model, lowercase=normalizer.lowercase)


class WordPiece:
    """The ids of plain texts, without special tokens. Safe between threads."""

    def __init__(self, tokenizer: Tokenizer, model: models.WordPiece, *, lowercase: bool) -> None:
        self._library = tokenizer
        self._lowercase = lowercase
        added = tokenizer.get_added_tokens_decoder().values()
        # NOTE: a text that holds the first character of an added token may hold the token, which is no word then.
        self._marks = {
            mark for token in added for mark in (token.content[0].lower(), token.content[0].upper())
        }
        self._known = _Words(_Splitter(model))
        self._pieces = _Words(self._read_piece)

    def ids(self, text: str) -> list[int] | None:
        """Return the ids of a text; None where the library has to read it."""
        for mark in self._marks:
            if mark in text:
                return None
        if not (text.isascii() and text.isprintable()):
            return self._mixed(text)
        known, ids = self._known, list[int]()
        for word in _words(text.lower() if self._lowercase else text):
            ids += known[word]
        return ids

    def _mixed(self, text: str) -> list[int] | None:
        """Read a text whose pieces are plain but for a few.

        NOTE: nothing that the library does to a character looks beyond a space.
        """
        pieces = text.split(" ")
        others = [piece for piece in pieces if not (piece.isascii() and piece.isprintable())]
        if len(others) > len(pieces) * MOST_PIECES or len(max(others, key=len)) > LONGEST_PIECE:
            return None
        ids: list[int] = []
        for piece in pieces:
            ids += self._pieces[piece]
        return ids

    def _read_piece(self, piece: str) -> list[int]:
        if piece.isascii() and piece.isprintable():
            return self.ids(piece) or []
        ids: list[int] = self._library.encode(piece, add_special_tokens=False).ids
        return ids


class _Words(dict[str, list[int]]):
    """What was read before, by its text."""

    def __init__(self, read: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, word: str) -> list[int]:
        ids = self._read(word)
        if len(word) > LONGEST_KNOWN:
            return ids
        if len(self) >= MOST_KNOWN:
            self.clear()
        self[word] = ids
        return ids


class _Splitter:
    """The longest pieces of the vocabulary, one after the other, that make a word."""

    def __init__(self, model: models.WordPiece) -> None:
        self._id = model.token_to_id
        self._unknown = model.token_to_id(model.unk_token) or 0
        self._prefix: str = model.continuing_subword_prefix
        self._longest: int = model.max_input_chars_per_word

    def __call__(self, word: str) -> list[int]:
        if len(word) > self._longest:
            return [self._unknown]
        ids: list[int] = []
        begin = 0
        while begin < len(word):
            found = self._longest_from(word, begin)
            if found is None:
                return [self._unknown]
            id_, begin = found
            ids.append(id_)
        return ids

    def _longest_from(self, word: str, begin: int) -> tuple[int, int] | None:
        """Return the id of the longest piece from a place on, and where it ends."""
        prefix = self._prefix if begin else ""
        for end in range(len(word), begin, -1):
            id_ = self._id(prefix + word[begin:end])
            if id_ is not None:
                return id_, end
        return None
