"""Text → token ids, as the model's own tokenizer and sentence-transformers do it, cut to the model's length.

Owns the Hugging Face tokenizer and the threads it runs on. NOTE: its truncation and padding are shared state and
raise "Already borrowed" when set while another thread encodes; they are switched off once, and texts are cut here.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeGuard

from tokenizers import Encoding
from tokenizers import Tokenizer as HuggingFaceTokenizer

from senryu.errors import InvalidRequest, ModelError, QueueFull, UnknownTokenId
from senryu.models import ModelSpec
from senryu.types import Inputs, Task, Tokens, Truncate
from senryu.wordpiece import reader

# Characters looked at first, per token that the model reads. English has about 4.5; a text with fewer than one
# token in 8 characters is looked at further, twice as far each time.
CHARS_PER_TOKEN = 8

# English has about 4.5; few texts of any length have more than this.
MOST_CHARS_PER_TOKEN = 6

# Characters of a text that are looked at in search of its tokens, unless the model's own first look is longer. What
# fills so many with fewer tokens than a model reads is white space, or words that no vocabulary has.
MOST_WINDOW = 1 << 20

# Texts of so few characters are tokenised on the spot: cheaper than a hand-over to a thread.
INLINE_CHARS = 256

# Characters that may wait for the tokenizer's threads; what is over the queue's bound is only known behind them. One
# request of 2,048 long texts alone does not reach it, or everybody else would be refused meanwhile.
MAX_WAITING_CHARS = 16_000_000

# Texts that a thread takes at once: the texts of a large request are a slice each, between which others have a turn.
SLICE_TEXTS = 96


class Tokenizer:
    """The tokenizer of one model."""

    def __init__(self, spec: ModelSpec, threads: int = 1) -> None:
        """Load tokenizer.json. Raises ModelError if it cannot be read."""
        path = spec.folder / "tokenizer.json"
        try:
            self._tokenizer = HuggingFaceTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path}: cannot be read: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._prompts = spec.prompts
        self._lowercase = spec.lowercase
        self.max_seq_length = spec.max_seq_length
        self._leading_ids, self._trailing_ids = self._find_special_tokens()
        self._leading, self._trailing = len(self._leading_ids), len(self._trailing_ids)
        self.ids = self._count_ids(spec)
        left_out = {} if spec.include_prompt else spec.prompts
        self._prompt_lengths = {task: self._measure(prompt) for task, prompt in left_out.items()}
        unknown_token = getattr(self._tokenizer.model, "unk_token", None)
        self._unknown_id = self._tokenizer.token_to_id(unknown_token) if unknown_token else None
        self._plain = reader(self._tokenizer)
        self._waiting_chars = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")

    def _find_special_tokens(self) -> tuple[list[int], list[int]]:
        encoding = self._tokenizer.encode("a")
        ids, mask = encoding.ids, encoding.special_tokens_mask
        leading = mask.index(0) if 0 in mask else len(mask)
        return ids[:leading], ids[leading + mask.count(0) :]

    def _count_ids(self, spec: ModelSpec) -> int:
        """Return how many token ids there are; the model's own table of vectors may have fewer, or spare ones."""
        known = self._tokenizer.get_vocab_size(with_added_tokens=True)
        rows = spec.config.get("vocab_size", known)
        return min(known, rows) if isinstance(rows, int) else known

    def _measure(self, prompt: str) -> int:
        """Return how many leading tokens are a prompt's for a pooling that leaves it out.

        As sentence-transformers counts them, from 5.4 on: as the prompt is read alone, white space at its end
        included, less one where the last token is a special one. So where the first word of a text grows together
        with the end of its prompt, it is left out, too.
        """
        ids = self._tokenizer.encode(prompt.lower() if self._lowercase else prompt).ids
        length = min(len(ids), self.max_seq_length)
        last = ids[-1:] if self._trailing_ids else ids[length - 1 : length]
        special = {id_ for id_, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        return length - len(special.intersection(last))

    async def encode(
        self, inputs: Inputs, task: Task, truncate: Truncate, max_tokens: int | None = None
    ) -> list[Tokens]:
        """Tokenise on a thread; a short text at once. Inputs that are token ids are completed; see `complete`.

        `max_tokens` bounds each input, prompt and special tokens not counted. Raises InvalidRequest, naming the
        text, if one is too long and `truncate` is NONE; UnknownTokenId; QueueFull.
        """
        if is_short(inputs) and max_tokens is None:
            return self.encode_now(inputs, task, truncate)
        if self._waiting_chars > MAX_WAITING_CHARS:
            raise QueueFull(
                f"The tokenizer is busy: {self._waiting_chars} characters are waiting, and at most "
                f"{MAX_WAITING_CHARS} may. Try again later.",
                retry_after=1,
            )
        work: Callable[..., list[Tokens]] = self.encode_now if _are_texts(inputs) else self.complete
        loop = asyncio.get_running_loop()
        parts = [inputs[start : start + SLICE_TEXTS] for start in range(0, len(inputs), SLICE_TEXTS)]
        costs = [self._cost(part) for part in parts]
        done: list[Tokens] = []
        self._waiting_chars += sum(costs)
        try:
            for part in parts:
                done += await loop.run_in_executor(
                    self._threads, work, part, task, truncate, max_tokens, len(done)
                )
                self._waiting_chars -= costs.pop(0)
        finally:
            self._waiting_chars -= sum(costs)
        return done

    def _cost(self, inputs: Inputs) -> int:
        """Return about how many characters have to be looked at."""
        return min(sum(map(len, inputs)), len(inputs) * self.max_seq_length * CHARS_PER_TOKEN)

    def estimate(self, inputs: Inputs) -> int:
        """Return about how many tokens the inputs have, rather too few than too many, without reading them."""
        longest = self.max_seq_length
        return sum([min(len(one) // MOST_CHARS_PER_TOKEN + 2, longest) for one in inputs])

    def encode_now(
        self,
        texts: Sequence[str],
        task: Task,
        truncate: Truncate,
        max_tokens: int | None = None,
        start: int = 0,
    ) -> list[Tokens]:
        """Tokenise in this thread; see `encode`. `start` is the place of the first text in its request."""
        prompt = self._prompts.get(task, "")
        length = self._length(prompt, max_tokens)
        short = self._encode_short(texts, prompt, truncate, length)
        found = [
            tokens or self._cut(index, text, prompt, truncate, length)
            for index, (text, tokens) in enumerate(zip(texts, short, strict=True), start)
        ]
        return self._without_prompt(found, task)

    def _without_prompt(self, texts: list[Tokens], task: Task) -> list[Tokens]:
        """Mark a prompt's tokens where the model's pooling leaves them out."""
        length = self._prompt_lengths.get(task)
        return [replace(tokens, prompt_length=length) for tokens in texts] if length else texts

    def complete(
        self,
        inputs: Sequence[Sequence[int]],
        task: Task,
        truncate: Truncate,
        max_tokens: int | None = None,
        start: int = 0,
    ) -> list[Tokens]:
        """Make what the model reads of texts that are given as ids of its own vocabulary.

        The ids are those of the text alone, as a tokenizer gives them with add_special_tokens=False and as OpenAI's
        clients send them. So the task's prompt and the model's special tokens ([CLS] and [SEP] of BERT) are added,
        and what is too long is cut, as with the text itself: the same text gives the same bits.
        Raises UnknownTokenId; InvalidRequest if one is too long and `truncate` is NONE.
        """
        most = self.max_seq_length - self._leading - self._trailing
        head = self._prompt_ids(self._prompts.get(task, ""))[:most]
        room = most - len(head)
        keep = room if max_tokens is None else min(room, max_tokens)
        found = [self._complete(index, ids, head, keep, truncate) for index, ids in enumerate(inputs, start)]
        return self._without_prompt(found, task)

    def _complete(
        self, index: int, ids: Sequence[int], head: list[int], keep: int, truncate: Truncate
    ) -> Tokens:
        if min(ids) < 0 or max(ids) >= self.ids:
            place = next(place for place, given in enumerate(ids) if not 0 <= given < self.ids)
            raise UnknownTokenId(index, place, ids[place], self.ids - 1)
        around = len(self._leading_ids) + len(head) + len(self._trailing_ids)
        if len(ids) > keep and truncate is Truncate.NONE:
            raise _too_long(index, f"{around + len(ids)}", around + keep)
        kept = ids[len(ids) - keep :] if truncate is Truncate.START and len(ids) > keep else ids[:keep]
        chosen = [*self._leading_ids, *head, *kept, *self._trailing_ids]
        return self._tokens(chosen, truncated=len(ids) > keep)

    def _prompt_ids(self, prompt: str) -> list[int]:
        if not prompt:
            return []
        ids: list[int] = self._tokenizer.encode(self._prepare(prompt, ""), add_special_tokens=False).ids
        return ids

    def _length(self, prompt: str, max_tokens: int | None) -> int:
        """Return how many tokens a text may have, prompt and special tokens included."""
        if max_tokens is None:
            return self.max_seq_length
        around = self._leading + self._trailing + len(self._prompt_ids(prompt))
        return min(self.max_seq_length, around + max_tokens)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, prompt: str, text: str) -> str:
        # What sentence-transformers does to a text before tokenising it, and nothing else.
        prepared = (prompt + text).strip()
        return prepared.lower() if self._lowercase else prepared

    def _encode_short(
        self, texts: Sequence[str], prompt: str, truncate: Truncate, length: int
    ) -> list[Tokens | None]:
        """Tokenise all texts that fit in one look, and in the length or are cut at its end; None for the others."""
        window = self.max_seq_length * CHARS_PER_TOKEN
        prepared = [self._prepare(prompt, text) if len(text) <= window else "" for text in texts]
        plain = [self._read_plain(text) for text in prepared]
        left = [text for text, ids in zip(prepared, plain, strict=True) if ids is None]
        read = iter(self._tokenizer.encode_batch_fast(left)) if left else iter(())
        found = [next(read).ids if ids is None else ids for ids in plain]
        return [
            self._fit(ids, truncate, length) if len(text) <= window else None
            for text, ids in zip(texts, found, strict=True)
        ]

    def _fit(self, ids: list[int], truncate: Truncate, length: int) -> Tokens | None:
        """Cut the ids of a whole text at their end if they are too many; None where they are cut otherwise."""
        if len(ids) <= length:
            return self._tokens(ids)
        if truncate is not Truncate.END:
            return None
        return self._tokens([*ids[: length - self._trailing], *self._trailing_ids], truncated=True)

    def _read_plain(self, text: str) -> list[int] | None:
        """Return the ids of a text that needs no library; None for the others."""
        ids = self._plain.ids(text) if self._plain else None
        return None if ids is None else [*self._leading_ids, *ids, *self._trailing_ids]

    def _tokens(self, ids: list[int], *, truncated: bool = False) -> Tokens:
        unknown = 0 if self._unknown_id is None else ids.count(self._unknown_id)
        return Tokens(array("i", ids), truncated, unknown)

    def _cut(self, index: int, text: str, prompt: str, truncate: Truncate, length: int) -> Tokens:
        """Tokenise a text that may be too long, looking only at as much of it as decides the result."""
        text = text.strip() if not prompt else text.rstrip()
        keep = length - self._leading - self._trailing
        window = self.max_seq_length * CHARS_PER_TOKEN
        while True:
            whole = len(text) <= window
            part = text if whole else text[-window:] if truncate is Truncate.START else text[:window]
            # NOTE: not `encode`: it holds the interpreter's lock.
            (encoding,) = self._tokenizer.encode_batch([self._prepare(prompt, part)])
            ids = encoding.ids
            content = range(self._leading, len(ids) - self._trailing)
            if whole and len(content) <= keep:
                return self._tokens(ids)
            # Where the cut falls on white space, no word is cut.
            between = whole or part[0 if truncate is Truncate.START else -1].isspace()
            head, certain = self._certain(encoding, content, prompt, truncate, whole=between)
            if whole or head + len(certain) > keep or window >= MOST_WINDOW:
                break
            window *= 2
        if truncate is Truncate.NONE and window >= MOST_WINDOW and head + len(certain) <= keep and not whole:
            raise InvalidRequest(
                f"input[{index}] has {len(text)} characters that make few tokens; at most {window} are looked at. "
                "Shorten it, or let 'truncate' be 'END' or 'START'.",
                "input",
            )
        if truncate is Truncate.NONE:
            count = f"{len(ids)}" if whole else f"at least {len(ids) - len(content) + len(certain)}"
            raise _too_long(index, count, length)
        head = min(head, keep)
        start, room = self._leading + head, keep - head
        kept = certain[:room] if truncate is Truncate.END else certain[len(certain) - room :]
        chosen = [*ids[:start], *(ids[i] for i in kept), *ids[len(ids) - self._trailing :]]
        return self._tokens(chosen, truncated=True)

    def _certain(
        self, encoding: Encoding, content: range, prompt: str, truncate: Truncate, *, whole: bool
    ) -> tuple[int, range]:
        """Return how many tokens of a prompt must stay, and which tokens cannot change with more of the text.

        NOTE: words are tokenised each on its own, so only the word at the cut is uncertain.
        """
        words = encoding.word_ids
        if truncate is not Truncate.START:
            uncertain = words[content[-1]] if content and not whole else None
            last = next((i for i in reversed(content) if whole or words[i] != uncertain), content.start - 1)
            return 0, range(content.start, last + 1)
        prompt_end = len(prompt.strip())
        head = sum(1 for i in content if encoding.offsets[i][1] <= prompt_end) if prompt else 0
        first = content.start + head
        if not whole and first < content.stop:
            uncertain = words[first]
            first = next((i for i in range(first, content.stop) if words[i] != uncertain), content.stop)
        return head, range(first, content.stop)


def is_short(inputs: Inputs) -> TypeGuard[tuple[str]]:
    """Tell whether the inputs are one text that is tokenised on the spot."""
    return len(inputs) == 1 and _are_texts(inputs) and len(inputs[0]) <= INLINE_CHARS


def _are_texts(inputs: Inputs) -> TypeGuard[tuple[str, ...]]:
    return isinstance(inputs[0], str)


def _too_long(index: int, count: str, length: int) -> InvalidRequest:
    return InvalidRequest(
        f"input[{index}] has {count} tokens, and the model reads at most {length}; "
        "shorten it, or let 'truncate' be 'END' or 'START'.",
        "input",
    )
