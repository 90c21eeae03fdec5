"""Token ids equal those of the tokenizer's own truncation, however long the text is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer

from senryu import models
from senryu.errors import InvalidRequest
from senryu.tokenizer import CHARS_PER_TOKEN, MOST_WINDOW, SLICE_TEXTS, Tokenizer
from senryu.types import Task, Truncate
from tiny import FOUR_PROMPTS

SCRIPTS = {
    "latin": "The crow sat on a bare branch, and autumn fell; nobody counted. ",
    "accents": "Où l'été s'achève, l'hôtel reçoit naïvement où Ångström déçu. ",
    "cyrillic": "Старый пруд, прыгает лягушка: всплеск воды. ",
    "greek": "Η παλιά λίμνη· ένας βάτραχος πηδά. ",
    "han": "古池や蛙飛び込む水の音",
    "hangul": "오래된 연못 개구리 뛰어드는 물소리 ",
    "thai": "บึงเก่ากบกระโดดเสียงน้ำ",
    "arabic": "البركة القديمة يقفز الضفدع صوت الماء ",
    "devanagari": "पुराना तालाब मेंढक कूदता है पानी की आवाज़ ",
    "emoji": "🐸🌊👩‍🔬🏽",
    "no spaces": "abcdefghij",
    "punctuation": "?!...,,;;(([[",
    "white space": "a \n\t  b        ",
    "control": "a\x00b\x07\u200bc ",
    "digits": "3141592653 58979 ",
}


@pytest.fixture(scope="module")
def spec(model_cache: Path) -> models.ModelSpec:
    return models.resolve("all-minilm-l6-v2", model_cache)


@pytest.fixture(scope="module")
def tokenizer(spec: models.ModelSpec) -> Tokenizer:
    return Tokenizer(spec)


def reference(spec: models.ModelSpec, direction: str = "right") -> HuggingFaceTokenizer:
    """The library's own truncation of the whole text."""
    loaded = HuggingFaceTokenizer.from_file(str(spec.folder / "tokenizer.json"))
    loaded.no_padding()
    loaded.enable_truncation(spec.max_seq_length, direction=direction)
    return loaded


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("truncate", [Truncate.END, Truncate.START])
def test_cutting_first_gives_the_ids_of_the_uncut_way(
    spec: models.ModelSpec, tokenizer: Tokenizer, script: str, truncate: Truncate
) -> None:
    exact = reference(spec, "left" if truncate is Truncate.START else "right")
    unit = SCRIPTS[script]
    window = spec.max_seq_length * CHARS_PER_TOKEN
    around = [window + offset for offset in (-2, -1, 0, 1, 2, 7, 50)]
    for length in [*around, 300, 900, 2 * window - 1, 2 * window + 1, 5 * window]:
        text = (unit * (length // len(unit) + 1))[:length]
        (tokens,) = tokenizer.encode_now([text], Task.SEARCH_DOCUMENT, truncate)
        assert tokens.ids.tolist() == exact.encode(text.strip()).ids, (script, length)


def test_a_text_of_a_megabyte_is_not_read_to_its_end(
    spec: models.ModelSpec, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    library = tokenizer._tokenizer

    class Spy:
        def encode_batch(self, texts: list[str]) -> object:
            seen.extend(map(len, texts))
            return library.encode_batch(texts)

        def encode_batch_fast(self, texts: list[str]) -> object:
            seen.extend(map(len, texts))
            return library.encode_batch_fast(texts)

    monkeypatch.setattr(tokenizer, "_tokenizer", Spy())
    for script in ("latin", "cyrillic", "han", "arabic", "hangul"):
        seen.clear()
        text = SCRIPTS[script] * (1_000_000 // len(SCRIPTS[script]))
        for truncate in (Truncate.END, Truncate.START):
            (tokens,) = tokenizer.encode_now([text], Task.SEARCH_DOCUMENT, truncate)
            assert len(tokens.ids) == spec.max_seq_length
            assert tokens.truncated
        assert sum(seen) <= 2 * 2 * spec.max_seq_length * CHARS_PER_TOKEN
    seen.clear()
    nothing = "frog" + " " * 5_000_000 + "pond"
    (tokens,) = tokenizer.encode_now([nothing], Task.SEARCH_DOCUMENT, Truncate.END)
    assert (
        tokens.ids.tolist()
        == tokenizer.encode_now(["frog"], Task.SEARCH_DOCUMENT, Truncate.END)[0].ids.tolist()
    )
    assert tokens.truncated
    assert sum(seen) <= 2 * MOST_WINDOW
    with pytest.raises(InvalidRequest, match=f"5000008 characters .* at most {MOST_WINDOW} are looked at"):
        tokenizer.encode_now([nothing], Task.SEARCH_DOCUMENT, Truncate.NONE)


def test_the_length_is_256_and_not_the_files_128(spec: models.ModelSpec, tokenizer: Tokenizer) -> None:
    (tokens,) = tokenizer.encode_now(["frog " * 200], Task.SEARCH_DOCUMENT, Truncate.END)
    assert len(tokens.ids) == 202
    assert not tokens.truncated
    (tokens,) = tokenizer.encode_now(["frog"], Task.SEARCH_DOCUMENT, Truncate.END)
    assert len(tokens.ids) == 3


def test_a_text_of_exactly_the_length_is_not_truncated(tokenizer: Tokenizer) -> None:
    for count, truncated in ((254, False), (255, True)):
        (tokens,) = tokenizer.encode_now(
            ["frog " * count], Task.SEARCH_DOCUMENT, Truncate.NONE if not truncated else Truncate.END
        )
        assert len(tokens.ids) == 256
        assert tokens.truncated is truncated


def test_truncate_none_names_the_text_its_tokens_and_the_limit(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match=r"input\[1\] has 302 tokens, .* at most 256"):
        tokenizer.encode_now(["frog", "frog " * 300], Task.SEARCH_DOCUMENT, Truncate.NONE)
    with pytest.raises(InvalidRequest, match=r"input\[0\] has at least \d+ tokens"):
        tokenizer.encode_now(["frog " * 100_000], Task.SEARCH_DOCUMENT, Truncate.NONE)


def test_white_space_only_is_the_empty_text_of_the_reference(tokenizer: Tokenizer) -> None:
    (tokens,) = tokenizer.encode_now([" \n\t "], Task.SEARCH_DOCUMENT, Truncate.END)
    assert tokens.ids.tolist() == [101, 102]


def test_unknown_tokens_are_counted(tokenizer: Tokenizer) -> None:
    (tokens,) = tokenizer.encode_now(["frog 🐸 pond 🐸"], Task.SEARCH_DOCUMENT, Truncate.END)
    assert tokens.unknown == 2


def test_order_is_kept_when_some_texts_are_long(tokenizer: Tokenizer) -> None:
    texts = ["frog", "pond " * 3000, "moon", "crow " * 400]
    together = tokenizer.encode_now(texts, Task.SEARCH_DOCUMENT, Truncate.END)
    for text, tokens in zip(texts, together, strict=True):
        (alone,) = tokenizer.encode_now([text], Task.SEARCH_DOCUMENT, Truncate.END)
        assert tokens.ids.tolist() == alone.ids.tolist()


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("truncate", [Truncate.END, Truncate.START])
def test_a_prompt_stays_in_front_and_counts(tiny_folder: Path, task: Task, truncate: Truncate) -> None:
    spec = models.load_spec(tiny_folder)
    tokenizer = Tokenizer(spec)
    whole = HuggingFaceTokenizer.from_file(str(tiny_folder / "tokenizer.json"))
    whole.no_truncation()
    whole.no_padding()
    prompt = FOUR_PROMPTS[task]
    (short,) = tokenizer.encode_now(["old frog"], task, truncate)
    assert short.ids.tolist() == whole.encode(prompt + "old frog").ids
    for count in (61, 62, 200, 2000):
        text = " ".join(["old", "frog", "pond"][i % 3] for i in range(count))
        ids = whole.encode(prompt + text).ids
        head = len(whole.encode(prompt).ids) - 1
        expected = ids
        if len(ids) > 64:
            kept = ids[:63] if truncate is Truncate.END else ids[:head] + ids[-1 - (63 - head) : -1]
            expected = [*kept, ids[-1]]
        (tokens,) = tokenizer.encode_now([text], task, truncate)
        assert tokens.ids.tolist() == expected


def test_threads_and_the_spot_give_the_same_ids(tokenizer: Tokenizer) -> None:
    texts = ["frog " * n for n in range(1, 90)]
    threaded = asyncio.run(tokenizer.encode(texts, Task.SEARCH_DOCUMENT, Truncate.END))
    here = tokenizer.encode_now(texts, Task.SEARCH_DOCUMENT, Truncate.END)
    assert [t.ids.tolist() for t in threaded] == [t.ids.tolist() for t in here]


@pytest.mark.parametrize("task", list(Task))
def test_ids_are_completed_as_the_text_is(tiny_folder: Path, task: Task) -> None:
    tokenizer = Tokenizer(models.load_spec(tiny_folder))
    plain = HuggingFaceTokenizer.from_file(str(tiny_folder / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    for text in ("old frog", "old frog pond " * 100, "🐸"):
        ids = plain.encode(text.strip(), add_special_tokens=False).ids
        for truncate in (Truncate.END, Truncate.START):
            for most in (None, 1, 5, 1000):
                (by_ids,) = tokenizer.complete([ids], task, truncate, most)
                (by_text,) = tokenizer.encode_now([text], task, truncate, most)
                assert by_ids.ids.tolist() == by_text.ids.tolist()
                assert (by_ids.truncated, by_ids.unknown) == (by_text.truncated, by_text.unknown)


def test_a_request_of_many_slices_is_whole_and_names_its_texts(tokenizer: Tokenizer) -> None:
    texts = [f"frog {n}" for n in range(3 * SLICE_TEXTS + 1)]
    sliced = asyncio.run(tokenizer.encode(tuple(texts), Task.SEARCH_DOCUMENT, Truncate.END))
    here = tokenizer.encode_now(texts, Task.SEARCH_DOCUMENT, Truncate.END)
    assert [t.ids.tolist() for t in sliced] == [t.ids.tolist() for t in here]
    texts[-1] = "frog " * 300
    with pytest.raises(InvalidRequest, match=rf"input\[{3 * SLICE_TEXTS}\] has 302 tokens"):
        asyncio.run(tokenizer.encode(tuple(texts), Task.SEARCH_DOCUMENT, Truncate.NONE))
    assert tokenizer._waiting_chars == 0


def test_others_have_a_turn_between_the_slices_of_a_large_request(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []
    encode_now = tokenizer.encode_now

    def spy(texts: Sequence[str], *args: Any) -> Any:
        order.append(len(texts))
        return encode_now(texts, *args)

    monkeypatch.setattr(tokenizer, "encode_now", spy)

    async def both() -> None:
        large = tokenizer.encode(("frog",) * (5 * SLICE_TEXTS), Task.SEARCH_DOCUMENT, Truncate.END)
        small = tokenizer.encode(("frog", "pond"), Task.SEARCH_DOCUMENT, Truncate.END)
        await asyncio.gather(large, small)

    asyncio.run(both())
    assert order == [SLICE_TEXTS, 2, *[SLICE_TEXTS] * 4]
