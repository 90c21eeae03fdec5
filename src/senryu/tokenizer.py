"""Text → token ids, as the model's own tokenizer and sentence-transformers do it, cut to the model's length.

Owns the Hugging Face tokenizer and the threads it runs on. NOTE: its truncation and padding are shared state and
raise "Already borrowed" when set while another thread encodes; they are switched off once, and texts are cut here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as HuggingFaceTokenizer

from senryu.errors import InvalidRequest, ModelError, QueueFull
from senryu.models import ModelSpec
from senryu.types import Task, Tokens, Truncate

# Characters looked at first, per token that the model reads. English has about 4.5; a text with fewer than one
# token in 8 characters is looked at further, twice as far each time.
CHARS_PER_TOKEN = 8

# Texts of so few characters are tokenised on the spot: cheaper than a hand-over to a thread.
INLINE_CHARS = 256

# Characters that may wait for the tokenizer's threads; what is over the queue's bound is only known behind them.
MAX_WAITING_CHARS = 4_000_000


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
        self._leading, self._trailing = self._count_special_tokens()
        unknown_token = getattr(self._tokenizer.model, "unk_token", None)
        self._unknown_id = self._tokenizer.token_to_id(unknown_token) if unknown_token else None
        self._waiting_chars = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")

    def _count_special_tokens(self) -> tuple[int, int]:
        mask = self._tokenizer.encode("a").special_tokens_mask
        leading = mask.index(0) if 0 in mask else len(mask)
        return leading, len(mask) - leading - mask.count(0)

    async def encode(self, texts: Sequence[str], task: Task, truncate: Truncate) -> list[Tokens]:
        """Tokenise on a thread; a short text at once.

        Raises InvalidRequest, naming the text, if one is too long and `truncate` is NONE; QueueFull.
        """
        if len(texts) == 1 and len(texts[0]) <= INLINE_CHARS:
            return self.encode_now(texts, task, truncate)
        chars = sum(map(len, texts))
        if self._waiting_chars and self._waiting_chars + chars > MAX_WAITING_CHARS:
            raise QueueFull(
                f"The tokenizer is busy: {self._waiting_chars} characters are waiting, and at most "
                f"{MAX_WAITING_CHARS} may. Try again later.",
                retry_after=1,
            )
        self._waiting_chars += chars
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self.encode_now, texts, task, truncate)
        finally:
            self._waiting_chars -= chars

    def encode_now(self, texts: Sequence[str], task: Task, truncate: Truncate) -> list[Tokens]:
        """Tokenise in this thread; see `encode`."""
        prompt = self._prompts.get(task, "")
        return [
            tokens or self._cut(index, text, prompt, truncate)
            for index, (text, tokens) in enumerate(zip(texts, self._encode_short(texts, prompt), strict=True))
        ]

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, prompt: str, text: str) -> str:
        # What sentence-transformers does to a text before tokenising it, and nothing else.
        prepared = (prompt + text).strip()
        return prepared.lower() if self._lowercase else prepared

    def _encode_short(self, texts: Sequence[str], prompt: str) -> list[Tokens | None]:
        """Tokenise all texts that fit in one look and in the model; None for the others."""
        window = self.max_seq_length * CHARS_PER_TOKEN
        prepared = [self._prepare(prompt, text) if len(text) <= window else "" for text in texts]
        encodings = self._tokenizer.encode_batch_fast(prepared)
        return [
            self._tokens(encoding.ids)
            if len(text) <= window and len(encoding) <= self.max_seq_length
            else None
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _tokens(self, ids: list[int], *, truncated: bool = False) -> Tokens:
        unknown = 0 if self._unknown_id is None else ids.count(self._unknown_id)
        return Tokens(np.array(ids, np.int32), truncated, unknown)

    def _cut(self, index: int, text: str, prompt: str, truncate: Truncate) -> Tokens:
        """Tokenise a text that may be too long, looking only at as much of it as decides the result."""
        text = text.strip() if not prompt else text.rstrip()
        keep = self.max_seq_length - self._leading - self._trailing
        window = self.max_seq_length * CHARS_PER_TOKEN
        while True:
            whole = len(text) <= window
            part = text if whole else text[-window:] if truncate is Truncate.START else text[:window]
            encoding = self._tokenizer.encode(self._prepare(prompt, part))
            ids = encoding.ids
            content = range(self._leading, len(ids) - self._trailing)
            if whole and len(content) <= keep:
                return self._tokens(ids)
            head, certain = self._certain(encoding, content, prompt, truncate, whole=whole)
            if whole or head + len(certain) > keep:
                break
            window *= 2
        if truncate is Truncate.NONE:
            count = f"{len(ids)}" if whole else f"at least {len(ids) - len(content) + len(certain)}"
            raise InvalidRequest(
                f"input[{index}] has {count} tokens, and the model reads at most {self.max_seq_length}; "
                "shorten it, or let 'truncate' be 'END' or 'START'."
            )
        start = self._leading + head
        kept = certain[: keep - head] if truncate is Truncate.END else certain[len(certain) - (keep - head) :]
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
