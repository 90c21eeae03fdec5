"""What is read without the library has the library's ids, or is left to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from senryu import wordpiece
from senryu.wordpiece import LONGEST_KNOWN, LONGEST_PIECE, WordPiece, reader

PLAIN = "frog pond splash old the a is crow autumn unbelievably wordpieces 3.14 it's e.g. x86_64 C++ ## ##ing"
OTHER = "Straße naïve été Ωμέγα ΟΔΟΣ İstanbul лягушка 古池 池や蛙 คบ e\u0301 \u0301 \u200b ﬁn ½ ² ’s — … 🐸"
ODD = "[CLS] [UNK] [MASK] [sep] [ ] a\nb a\tb \x00 a\x07b \ufffd \u3000 \xa0 \x85"
LONG = ["z" * 99, "z" * 101, "frog" * 30, "!" * 40, "ü" * (LONGEST_PIECE + 1)]
PIECES = [*PLAIN.split(), *OTHER.split(), *ODD.split(" "), *LONG]


def built(*, lowercase: bool = True) -> Tokenizer:
    """Return a small tokenizer of BERT's kind."""
    letters = [chr(code) for code in range(33, 127)]
    more = ["frog", "pond", "un", "##believ", "##ably", "the", "The", "é", "ß", "##ß", "ω", "池"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *more]
    vocabulary.remove("q")  # so that some plain words cannot be read
    tokenizer = Tokenizer(
        models.WordPiece({word: id_ for id_, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def of(tokenizer: Tokenizer) -> WordPiece:
    found = reader(tokenizer)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def library(model_cache: Path) -> Tokenizer:
    loaded = Tokenizer.from_file(str(model_cache / "all-minilm-l6-v2" / "tokenizer.json"))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


BUILT = {True: built(), False: built(lowercase=False)}
READERS = {lowercase: of(tokenizer) for lowercase, tokenizer in BUILT.items()}

texts = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(max_codepoint=0x17F), max_size=60),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=30).map(" ".join),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
)


@settings(max_examples=400, deadline=None)
@given(texts, st.booleans())
@example("The quick frog", True)
@example("The quick frog", False)
def test_ids_are_the_librarys_or_none(text: str, lowercase: bool) -> None:
    ids = READERS[lowercase].ids(text)
    assert ids is None or ids == BUILT[lowercase].encode(text, add_special_tokens=False).ids


def test_ids_are_those_of_the_default_models_tokenizer(library: Tokenizer) -> None:
    plain = of(library)

    @settings(max_examples=400, deadline=None)
    @given(texts)
    def equal(text: str) -> None:
        ids = plain.ids(text)
        assert ids is None or ids == library.encode(text, add_special_tokens=False).ids

    equal()
    words = [word for word in library.get_vocab() if "[" not in word]
    for start in range(0, len(words), 50):
        text = " ".join(words[start : start + 50])
        ids = plain.ids(text)
        assert ids is None or ids == library.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "the frog",
        "Nobody counted 3.14 frogs (or more)!",
        "z" * 150,
        "the old pond, été, a frog " * 9,
    ],
)
def test_ordinary_text_is_read_without_the_library(text: str) -> None:
    assert READERS[True].ids(text) == BUILT[True].encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "text", ["a [CLS] b", "a[b", "古池や蛙飛び込む水の音", "é à ü frog", "ü" * 99 + " frog" * 99]
)
def test_text_of_another_kind_is_left_to_the_library(text: str) -> None:
    assert READERS[True].ids(text) is None


def test_a_word_that_no_vocabulary_has_is_unknown() -> None:
    unknown = BUILT[True].token_to_id("[UNK]")
    assert READERS[True].ids("quiz") == [unknown]
    assert READERS[True].ids("z" * 101) == [unknown]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "MOST_KNOWN", 10)
    tokenizer = built()
    plain = of(tokenizer)
    for number in range(100):
        text = f"frog{number} pond"
        assert plain.ids(text) == tokenizer.encode(text, add_special_tokens=False).ids
        assert len(plain._known) <= 10


def test_a_word_as_long_as_a_text_is_not_remembered() -> None:
    tokenizer = built()
    plain = of(tokenizer)
    for text in ("z" * 60_000, "frog" * 20, "é " + "pond," * 5_000 + " the frog"):
        assert plain.ids(text) == tokenizer.encode(text, add_special_tokens=False).ids
    assert plain.ids("the frog") is not None
    for remembered in (plain._known, plain._pieces):
        assert remembered
        assert max(map(len, remembered)) <= LONGEST_KNOWN


def test_a_tokenizer_of_another_kind_has_no_reader() -> None:
    stripped, split, byte_pairs, other = built(), built(), built(), built()
    stripped.normalizer = normalizers.Lowercase()
    split.pre_tokenizer = pre_tokenizers.Whitespace()
    byte_pairs.model = models.BPE()
    other.normalizer = normalizers.BertNormalizer(clean_text=False)
    assert [reader(tokenizer) for tokenizer in (stripped, split, byte_pairs, other)] == [None] * 4
