"""What is counted with plain numbers reads like what Prometheus' own client counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from senryu import metrics
from senryu.tally import Count, Level, Spread

BOUNDS = (0.5, 1, 2, 10)
NUMBERS = (0.1, 0.5, 0.500001, 1, 7, 10, 11, 1e9)


@pytest.fixture
def own() -> Iterator[list[Count | Level | Spread]]:
    made: list[Count | Level | Spread] = []
    yield made
    for one in made:
        REGISTRY.unregister(one)


def text_of(registry: CollectorRegistry) -> list[str]:
    return generate_latest(registry).decode().splitlines()


def text_of_each(own: list[Count | Level | Spread]) -> list[str]:
    registry = CollectorRegistry()
    for one in own:
        registry.register(one)
    return text_of(registry)


@pytest.mark.parametrize("labels", [(), ("stage", "kind")])
@pytest.mark.parametrize("numbers", [(), NUMBERS])
def test_it_reads_like_the_librarys(
    own: list[Count | Level | Spread], labels: tuple[str, ...], numbers: tuple[float, ...]
) -> None:
    assert metrics.CONTENT_TYPE  # whose import leaves out the time at which a series began
    theirs = CollectorRegistry()
    spread, count, level = Spread("a", "A.", BOUNDS, labels), Count("b", "B.", labels), Level("c", "C.")
    own += [spread, count, level]
    histogram = Histogram("a", "A.", labels, buckets=BOUNDS, registry=theirs)
    counter, gauge = Counter("b", "B.", labels, registry=theirs), Gauge("c", "C.", registry=theirs)
    for place, number in enumerate(numbers):
        values = tuple(f"{label} {place % 2}" for label in labels)
        spread.observe(number, *values)
        count.add(number, *values)
        level.value = number
        (histogram.labels(*values) if labels else histogram).observe(number)
        (counter.labels(*values) if labels else counter).inc(number)
        gauge.set(number)
    assert text_of_each(own) == text_of(theirs)
