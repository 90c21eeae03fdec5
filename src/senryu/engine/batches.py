"""Batches as every engine is handed them: texts end to end, and how many tokens of each the pooling leaves out.

Knows the values that cross the border alone; padding and graphs are an engine's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from senryu.types import Batch, Tokens


def batch_of(texts: Sequence[Tokens]) -> Batch:
    """Lay texts end to end, in their order."""
    prompt_lengths = [tokens.prompt_length for tokens in texts]
    return Batch(
        input_ids=np.frombuffer(bytearray().join([tokens.ids for tokens in texts]), np.int32),
        lengths=np.array([len(tokens.ids) for tokens in texts], np.int32),
        prompt_lengths=np.array(prompt_lengths, np.int32) if any(prompt_lengths) else None,
    )


def prompt_lengths(batch: Batch) -> NDArray[np.int32]:
    """Return how many leading tokens of each text the pooling leaves out, at most all of them, [B]."""
    if batch.prompt_lengths is None:
        return np.zeros_like(batch.lengths)
    return np.minimum(batch.prompt_lengths, batch.lengths)
