"""Metrics that the event loop alone counts with: plain numbers, which Prometheus' client reads.

Its own take a lock for every number; a request has ten, and a batch six. Knows numbers and labels; no metric's name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


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


class Level:
    """A gauge: `value` is read when somebody asks."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name, self._documentation = name, documentation
        self.value = 0.0
        REGISTRY.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the value, for the registry."""
        yield GaugeMetricFamily(self._name, self._documentation, self.value)


class Spread:
    """A histogram for each combination of label values. `bounds` are the buckets' upper ends, rising."""

    def __init__(
        self, name: str, documentation: str, bounds: Sequence[float], labels: Sequence[str] = ()
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._bounds = tuple(bounds)
        self._names = [*(repr(float(bound)) for bound in bounds), "+Inf"]
        # How many numbers fell into each bucket, and behind these their sum.
        empty = [0.0] * (len(self._names) + 1)
        self._cells: dict[tuple[str, ...], list[float]] = defaultdict(empty.copy)
        if not labels:
            self._cells[()] = empty.copy()  # there from the start, as the library has it
        REGISTRY.register(self)

    def observe(self, amount: float, *values: str) -> None:
        """Take in one number, for these label values."""
        cell = self._cells[values]
        cell[bisect_left(self._bounds, amount)] += 1
        cell[-1] += amount

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield what was observed, for the registry."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, (*counts, total) in list(self._cells.items()):
            buckets = list(zip(self._names, accumulate(counts), strict=True))
            family.add_metric(values, buckets, total)
        yield family
