"""Counters and histograms that the event loop alone counts with: plain numbers, which Prometheus' client reads.

Its own take a lock for every number, and a request has ten. Knows numbers and labels; no metric's name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily


class Count:
    """A counter, with a number for each combination of label values: `counter[values] += n`."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = ()) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._values: dict[tuple[str, ...], float] = defaultdict(float) if labels else {(): 0.0}
        REGISTRY.register(self)

    def add(self, amount: float, *values: str) -> None:
        """Count, for these label values."""
        self._values[values] += amount

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield what was counted, for the registry."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, number in list(self._values.items()):
            family.add_metric(values, number)
        yield family


class Durations:
    """A histogram of seconds for each value of one label. `bounds` are the buckets' upper ends, rising."""

    def __init__(self, name: str, documentation: str, label: str, bounds: Sequence[float]) -> None:
        self._name, self._documentation, self._label = name, documentation, label
        self._bounds = tuple(bounds)
        self._names = [*(repr(float(bound)) for bound in bounds), "+Inf"]
        self._counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(self._names))
        self._sums: dict[str, float] = defaultdict(float)
        REGISTRY.register(self)

    def observe(self, value: str, seconds: float) -> None:
        """Take in one duration, for this label value."""
        self._counts[value][bisect_left(self._bounds, seconds)] += 1
        self._sums[value] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield what was observed, for the registry."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=(self._label,))
        for value, counts in list(self._counts.items()):
            buckets = list(zip(self._names, map(float, accumulate(counts)), strict=True))
            family.add_metric((value,), buckets, self._sums[value])
        yield family
