"""Which attention widths are fastest? Runs the engine alone over texts of a file, in full batches, widths in turn.

    python bench/buckets.py --model FOLDER --texts queries.txt --precision bf16

Prints useful tokens/s (padding not counted) and fill for each choice of widths: the median over rounds, and the ratio
to the first in the same round, because machines are noisy; then what this release's widths make of the texts.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from senryu import engine, models
from senryu.engine import Engine, openvino
from senryu.tokenizer import Tokenizer
from senryu.types import Batch, Precision, Task, Tokens, Truncate

RELEASE = "this release's"
WIDTHS: dict[str, tuple[tuple[int, int], ...]] = {
    RELEASE: openvino.BUCKETS,
    "8": ((1 << 30, 8),),
    "8 to 64, 16": ((64, 8), (1 << 30, 16)),
    "16": ((1 << 30, 16),),
    "32": ((1 << 30, 32),),
    "64": ((1 << 30, 64),),
}


def batches(loaded: Engine, texts: Iterable[Tokens], budget: int) -> list[Batch]:
    """Cut texts, in their order, into batches of one bucket and at most `budget` tokens each."""
    by_bucket: dict[int, list[list[Tokens]]] = {}
    for tokens in texts:
        groups = by_bucket.setdefault(loaded.bucket(len(tokens.ids)), [[]])
        if groups[-1] and sum(len(one.ids) for one in groups[-1]) + len(tokens.ids) > budget:
            groups.append([])
        groups[-1].append(tokens)
    return [_batch(group) for width in sorted(by_bucket) for group in by_bucket[width]]


def _batch(texts: Sequence[Tokens]) -> Batch:
    lengths = np.array([len(tokens.ids) for tokens in texts], np.int32)
    return Batch(np.concatenate([tokens.ids for tokens in texts]), lengths)


def useful_tokens(plan: Iterable[Batch]) -> int:
    """Count the tokens of some batches, padding left out."""
    return sum(len(batch.input_ids) for batch in plan)


def rate(loaded: Engine, plan: Sequence[Batch], callers: int, seconds: float = 0) -> float:
    """Return useful tokens/s over whole passes through the batches, at least one, for at least so many seconds."""
    passes, began = 0, time.perf_counter()
    with ThreadPoolExecutor(callers) as threads:
        while not passes or time.perf_counter() - began < seconds:
            waiting = iter(plan)  # shared: each caller takes the next one
            list(threads.map(_run_all, [loaded] * callers, [waiting] * callers))
            passes += 1
    return passes * useful_tokens(plan) / (time.perf_counter() - began)


def _run_all(loaded: Engine, waiting: Iterable[Batch]) -> None:
    for batch in waiting:
        loaded.run(batch)


def read(spec: models.ModelSpec, lines: Sequence[str]) -> list[Tokens]:
    """Return the tokens of some texts, as documents."""
    tokenizer = Tokenizer(spec)
    try:
        return tokenizer.encode_now(lines, Task.SEARCH_DOCUMENT, Truncate.END)
    finally:
        tokenizer.close()


def measure(
    loaded: Engine, plans: dict[str, list[Batch]], callers: int, rounds: int
) -> dict[str, list[float]]:
    """Run the plans in turn, round by round."""
    rates: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(rounds):
        for name, plan in plans.items():
            openvino.BUCKETS = WIDTHS[name]
            # NOTE: once unmeasured: the kernels of all choices do not fit into the engine's cache together.
            rate(loaded, plan, callers)
            rates[name].append(rate(loaded, plan, callers))
    return rates


def fills(loaded: Engine, plan: Sequence[Batch]) -> tuple[float, float]:
    """Return useful tokens over those computed, in linear layers and in the rows of attention."""
    useful = useful_tokens(plan)
    linear = sum(loaded.computed(len(batch.input_ids)) for batch in plan)
    rows = sum(loaded.bucket(int(batch.lengths.max())) * len(batch.lengths) for batch in plan)
    return useful / linear, useful / rows


def widths_table(loaded: Engine, plans: dict[str, list[Batch]], rates: dict[str, list[float]]) -> None:
    """Print each choice of widths: its rate, and what it computes in vain."""
    print("\n| widths | useful tokens/s | against the first | fill | fill of attention | batches |")
    print("|---|---|---|---|---|---|")
    first = next(iter(rates.values()))
    for name, measured in rates.items():
        openvino.BUCKETS = WIDTHS[name]
        linear, rows = fills(loaded, plans[name])
        ratio = statistics.median(a / b for a, b in zip(measured, first, strict=True))
        median = statistics.median(measured)
        print(f"| {name} | {median:,.0f} | {ratio:.3f} | {linear:.3f} | {rows:.3f} | {len(plans[name])} |")


def buckets_table(loaded: Engine, plan: Sequence[Batch]) -> None:
    """Print each bucket of this release: what of the texts falls into it, and how full its batches are."""
    openvino.BUCKETS = WIDTHS[RELEASE]
    by_bucket: dict[int, list[Batch]] = {}
    for batch in plan:
        by_bucket.setdefault(loaded.bucket(int(batch.lengths.max())), []).append(batch)
    print("\n| bucket | texts | batches | tokens a batch | fill | fill of attention |")
    print("|---|---|---|---|---|---|")
    for width, its in sorted(by_bucket.items()):
        linear, rows = fills(loaded, its)
        texts = sum(len(batch.lengths) for batch in its)
        mean = useful_tokens(its) / len(its)
        print(f"| {width} | {texts} | {len(its)} | {mean:.0f} | {linear:.3f} | {rows:.3f} |")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="one text a line")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--budget", type=int, default=512, help="tokens a batch")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    spec = models.load_spec(args.model)
    texts = read(spec, args.texts.read_text("utf-8").splitlines()[: args.count])
    threads = engine.machine.usable_threads()
    loaded = engine.load(spec, precision=Precision(args.precision), threads=threads)
    plans = {}
    for name, widths in WIDTHS.items():
        openvino.BUCKETS = widths
        plans[name] = batches(loaded, texts, args.budget)
        random.Random(0).shuffle(plans[name])
    rates = measure(loaded, plans, loaded.streams, args.rounds)
    tokens = sum(len(one.ids) for one in texts)
    print(f"{len(texts)} texts, {tokens} tokens, {args.precision}, batches of {args.budget} tokens")
    print(f"{RELEASE} widths, as (up to this length, steps of this width): {WIDTHS[RELEASE]}")
    widths_table(loaded, plans, rates)
    buckets_table(loaded, plans[RELEASE])


if __name__ == "__main__":
    main()
