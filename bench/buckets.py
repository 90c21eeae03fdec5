"""Which bucket widths are fastest? Runs the engine alone over texts of a file, in full batches, widths in turn.

    python bench/buckets.py --model FOLDER --texts queries.txt --precision bf16

Prints useful tokens/s (padding not counted) and fill for each width: the median over rounds, and the ratio to the
first candidate in the same round, because machines are noisy.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

import numpy as np

from senryu import engine, models
from senryu.engine import openvino
from senryu.tokenizer import Tokenizer
from senryu.types import Batch, Precision, Task, Tokens, Truncate

WIDTHS: dict[str, tuple[tuple[int, int], ...]] = {
    "4": ((1 << 30, 4),),
    "2": ((1 << 30, 2),),
    "8": ((1 << 30, 8),),
    "16": ((1 << 30, 16),),
    "4 to 32, 8 to 128, 16": ((32, 4), (128, 8), (1 << 30, 16)),
    "4 to 64, 16": ((64, 4), (1 << 30, 16)),
    "8 to 64, 16": ((64, 8), (1 << 30, 16)),
}


def batches(texts: list[Tokens], budget: int) -> list[Batch]:
    """Group texts by bucket into batches of at most `budget` padded tokens, in random order."""
    by_bucket: dict[int, list[Tokens]] = {}
    for tokens in texts:
        by_bucket.setdefault(openvino.bucket(len(tokens.ids)), []).append(tokens)
    made = []
    for length, waiting in by_bucket.items():
        size = max(1, budget // length)
        for start in range(0, len(waiting), size):
            part = waiting[start : start + size]
            lengths = np.array([len(tokens.ids) for tokens in part], np.int32)
            made.append(Batch(np.concatenate([tokens.ids for tokens in part]), lengths))
    random.Random(0).shuffle(made)
    return made


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="one text a line")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    spec = models.load_spec(args.model)
    lines = args.texts.read_text("utf-8").splitlines()[: args.count]
    texts = Tokenizer(spec).encode_now(lines, Task.SEARCH_DOCUMENT, Truncate.END)
    useful = sum(len(tokens.ids) for tokens in texts)
    loaded = engine.load(spec, precision=Precision(args.precision), threads=engine.machine.usable_threads())
    plans = {}
    for name, widths in WIDTHS.items():
        openvino.BUCKETS = widths
        plans[name] = batches(texts, args.budget)
    rates: dict[str, list[float]] = {name: [] for name in plans}
    for round_ in range(args.rounds + 1):
        for name, plan in plans.items():
            openvino.BUCKETS = WIDTHS[name]
            started = time.perf_counter()
            for batch in plan:
                loaded.run(batch)
            if round_:  # the first warms up
                rates[name].append(useful / (time.perf_counter() - started))
    first = next(iter(rates.values()))
    print(f"{len(texts)} texts, {useful} tokens, {args.precision}, batches of {args.budget} tokens")
    print("| widths | useful tokens/s | against the first | fill | batches |\n|---|---|---|---|---|")
    for name, measured in rates.items():
        openvino.BUCKETS = WIDTHS[name]
        fill = useful / sum(openvino.bucket(len(tokens.ids)) for tokens in texts)
        ratio = statistics.median(a / b for a, b in zip(measured, first, strict=True))
        print(
            f"| {name} | {statistics.median(measured):,.0f} | {ratio:.3f} | {fill:.3f} | {len(plans[name])} |"
        )


if __name__ == "__main__":
    main()
