"""How fast an engine runs, and how much one batch of it shall hold. Knows tokens and seconds; no queue, no engine."""

from __future__ import annotations

# Of a micro-batch, whatever the engine's speed.
MIN_BATCH_TOKENS = 128
MAX_BATCH_TOKENS = 1024
# Full batches stay of one size while the rate trembles: an engine is faster at a shape that it has just run.
BUDGET_STEP = 32

# What an engine is taken to compute before it has been measured, in tokens/s of one stream.
FIRST_RATE = 10_000.0


class Pace:
    """What is measured of one engine."""

    def __init__(self, batch_seconds: float) -> None:
        """`batch_seconds` is how long a batch should take."""
        self.rate = FIRST_RATE  # tokens/s of one stream; soon measured
        self._batch_seconds = batch_seconds
        self._measured = 0.0  # full batches' worth

    @property
    def budget(self) -> int:
        """How many tokens a full batch has."""
        tokens = min(max(self.rate * self._batch_seconds, MIN_BATCH_TOKENS), MAX_BATCH_TOKENS)
        return int(tokens) // BUDGET_STEP * BUDGET_STEP

    def measure(self, tokens: int, seconds: float) -> None:
        """Take in what a batch took."""
        # NOTE: a small batch says less about the rate of a full one, and says it lower than it is.
        fullness = min(1.0, tokens / self.budget)
        self._measured += fullness
        self.rate += fullness * max(0.05, 1 / (1 + self._measured)) * (tokens / seconds - self.rate)
