"""Every metric, named once. Names follow Prometheus' conventions: base units, `_total` for counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    Counter,
    Gauge,
    disable_created_metrics,
    generate_latest,
)

from senryu.tally import Count, Level, Spread
from senryu.types import Usage

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge beside each, of when it began

# NOTE: these are counted for every request, on the event loop alone.
REQUESTS = Count("senryu_requests", "Requests answered, by route and status.", ("route", "status"))
TEXTS = Count("senryu_texts", "Texts embedded.")
PROMPT_TOKENS = Count("senryu_prompt_tokens", "Tokens read by the model, as billed.")
TRUNCATED_TEXTS = Count("senryu_truncated_texts", "Texts cut to the model's length.")
UNKNOWN_TOKENS = Count("senryu_unknown_tokens", "Tokens that the model's vocabulary could not read.")
STAGE_SECONDS = Spread(
    "senryu_stage_seconds",
    "Seconds that answered requests spent in each stage.",
    (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
    ("stage",),
)
# NOTE: and these for every batch.
QUEUE_TOKENS = Level("senryu_queue_tokens", "Tokens waiting for the engine.")
BATCH_TEXTS = Spread("senryu_batch_texts", "Texts in a batch.", (1, 2, 4, 8, 16, 32, 64, 128))
ENGINE_RATE = Level("senryu_engine_tokens_per_second", "Tokens that all engine streams compute in a second.")
TOKENS_USEFUL = Count("senryu_tokens_useful", "Tokens computed, padding left out.")
TOKENS_COMPUTED = Count("senryu_tokens_computed", "Tokens computed, padding included.")
ENGINE_SECONDS = Count("senryu_engine_seconds", "Seconds that engine streams spent computing.")

REJECTED = Counter("senryu_rejected_requests", "Requests refused because the queue was full.")

LIMITED = Counter("senryu_limited_requests", "Requests refused by a limit of their key.", ("limit",))

_USED_BY = "key", "model"
USAGE_REQUESTS = Counter("senryu_usage_requests", "Requests answered, by key id and model.", _USED_BY)
USAGE_TEXTS = Counter("senryu_usage_texts", "Texts of these requests.", _USED_BY)
USAGE_TOKENS = Counter("senryu_usage_tokens", "Tokens of these requests, as billed.", _USED_BY)
USAGE_ERRORS = Counter(
    "senryu_usage_errors", "Requests that were not answered, by key id and model.", _USED_BY
)
USAGE_WAITING = Gauge("senryu_usage_waiting", "Requests counted and not yet written to the database.")
USAGE_DROPPED = Counter("senryu_usage_dropped", "Requests whose usage was lost, because too much waited.")
DATABASE_UP = Gauge("senryu_database_up", "Whether the database answers: 1, or 0.")

# Pairs of key and model with a series of their own; those that come later share the key "other".
MOST_PAIRS = 1000

ENGINE_INFO = Gauge(
    "senryu_engine_info", "What computes a model; always 1.", ("model", "engine", "precision")
)
PRECISION_COSINE = Gauge(
    "senryu_precision_cosine",
    "Cosine to f32 that int8 was measured to have: mean, p1 (the 1st percentile), min.",
    ("model", "statistic"),
)


def observe(route: str, status: int, stages: Mapping[str, float]) -> None:
    """Count an answer and the seconds that its stages took."""
    REQUESTS.add(1, route, str(status))
    for name, seconds in stages.items():
        STAGE_SECONDS.observe(seconds, name)


_pairs: set[tuple[str, str]] = set()


def count_usage(rows: Iterable[Usage]) -> None:
    """Count what keys used."""
    for row in rows:
        pair = row.key_id, row.model_id
        if pair not in _pairs and len(_pairs) >= MOST_PAIRS:
            pair = "other", row.model_id
        _pairs.add(pair)
        USAGE_REQUESTS.labels(*pair).inc(row.requests)
        USAGE_TEXTS.labels(*pair).inc(row.texts)
        USAGE_TOKENS.labels(*pair).inc(row.tokens)
        USAGE_ERRORS.labels(*pair).inc(row.errors)


def exposition() -> bytes:
    """Return every metric in Prometheus' text format."""
    return generate_latest()
