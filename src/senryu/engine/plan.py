"""Turns a record of operations into a plan for the kernels: what is fused, in which formats, and where it lies.

Knows formats and lifetimes; nothing of models, files or running.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from senryu.engine.kernels import (
    ALIGNMENT,
    COLUMNS,
    WORD,
    Format,
    NotComputed,
    Operation,
    PlanTable,
    Slot,
    Step,
    pack,
)
from senryu.engine.native_ops import Layer, Value
from senryu.engine.windows import LEVELS, Window, quantise, step

# Rows that run through consecutive steps together: what they make of a layer stays in the second-level cache.
BLOCK = 192

_TAKES_ALL = (Operation.ATTENTION, Operation.POOL)


class Tensors(Protocol):
    """Where the weights of linear layers come from: a model's files."""

    def share(self, name: str, part: tuple[int, int]) -> NDArray[np.float32]:
        """Return the i-th of n equal shares of a tensor's rows, for a part (i, n)."""
        ...


@dataclass(frozen=True, slots=True)
class Formats:
    """What numbers are multiplied as: in linear layers without a window, and between queries, keys and values."""

    linear: Format
    attention: Format


@dataclass(slots=True)
class _Fused:
    """A step: one operation, or a linear layer with what is done to its result before it is stored."""

    head: Value
    result: Value
    activation: int = 0
    added: Value | None = None
    factors: Value | None = None

    @property
    def reads(self) -> list[Value]:
        return [*self.head.inputs, *(x for x in (self.added, self.factors) if x is not None)]


@dataclass(slots=True)
class Plan:
    """The table, and everything that it points to."""

    table: PlanTable
    width: int
    kept: list[Any] = field(default_factory=list)


def fuse(values: Sequence[Value], result: Value) -> list[_Fused]:
    """Put activations, products and sums into the linear layer whose result nobody else reads; in running order."""
    readers: dict[Value, int] = defaultdict(int)
    for value in values:
        for read in value.inputs:
            readers[read] += 1
    readers[result] += 2
    steps: dict[Value, _Fused] = {}
    for value in values:
        into = next(
            (s for x in reversed(value.inputs) if (s := steps.get(x)) and _takes(s, value, readers[x])), None
        )
        if into is None:
            steps[value] = _Fused(value, value)
            continue
        others = [x for x in value.inputs if x is not into.result]
        del steps[into.result]
        _extend(into, value, others)
        steps[value] = into
    return list(steps.values())


def _takes(step: _Fused, value: Value, readers: int) -> bool:
    if step.head.operation is not Operation.LINEAR or readers != 1 or step.added is not None:
        return False
    match value.operation:
        case Operation.ACTIVATION:
            return not step.activation and step.factors is None
        case Operation.MULTIPLY:
            return step.factors is None
        case operation:
            return operation is Operation.ADD


def _extend(step: _Fused, value: Value, others: list[Value]) -> None:
    step.result = value
    match value.operation:
        case Operation.ACTIVATION:
            step.activation = value.given["activation"]
        case Operation.MULTIPLY:
            step.factors = others[0]
        case _:
            step.added = others[0]


def splittable(values: Sequence[Value], result: Value) -> frozenset[str]:
    """Return the layers whose input may have several columns a channel."""
    steps = fuse(values, result)
    return frozenset(
        step.head.layer.name
        for step in steps
        if step.head.layer and _makers(steps, step.head.inputs[0], result)
    )


def _makers(steps: Sequence[_Fused], value: Value, result: Value) -> list[_Fused]:
    """Return the linear layers whose outputs are columns of a value that linear layers alone read; else none.

    NOTE: only such a value can have its columns several times: by rows of the weights that make it.
    """
    makers = [step for step in steps if step.result is value]
    makers += [step for step in steps if makers and step.result is makers[0].factors]
    of_columns = all(step.head.layer and step.added is None for step in makers)
    of_two = all(step.factors is None and _reads_of(steps, step.result) == 1 for step in makers[1:])
    readers = [step for step in steps if value in step.reads]
    to_layers = all(step.head.layer and step.reads.count(value) == 1 for step in readers)
    in_place = value is not result and all(step.head.inputs[0] is value for step in readers)
    return makers if of_columns and of_two and to_layers and in_place else []


def _reads_of(steps: Sequence[_Fused], value: Value) -> int:
    return sum(step.reads.count(value) for step in steps)


class _Slots:
    """Where values lie; a slot whose value nobody reads any more is given to the next of its width."""

    def __init__(self) -> None:
        self.all: list[tuple[int, bool]] = []
        self._free: dict[tuple[int, bool], list[int]] = defaultdict(list)

    def take(self, width: int, of: Format, is_local: bool) -> int:
        kind = -(-width * of.bytes // ALIGNMENT) * ALIGNMENT, is_local
        if self._free[kind]:
            return self._free[kind].pop()
        self.all.append(kind)
        return len(self.all) - 1

    def give_back(self, slot: int) -> None:
        self._free[self.all[slot]].append(slot)


class Planner:
    """Lowers fused steps one by one."""

    def __init__(self, weights: Tensors, formats: Formats, windows: Mapping[str, Window]) -> None:
        self._weights = weights
        self._formats = formats
        self._windows = windows
        self._slots = _Slots()
        self._at: dict[tuple[Value, Format], int] = {}
        self._window_of: dict[Value, Window] = {}
        self._channels: dict[Value, NDArray[np.intp]] = {}  # of a value with several columns a channel
        self._kept: list[Any] = []

    def plan(self, values: Sequence[Value], result: Value, padding_id: int) -> Plan:
        """Return the plan that computes `result`."""
        steps = fuse(values, result)
        wanted, last = self._demands(steps)
        wanted[result].add(Format.F32)
        last[result] = len(steps)
        self._channels = self._split(steps, result)
        segments = _segments(steps)
        table = (Step * len(steps))()
        for index, each in enumerate(steps):
            is_local = (
                each.head.operation not in _TAKES_ALL and segments[last[each.result]] == segments[index]
            )
            self._fill(table[index], each, wanted[each.result], is_local)
            for value in {*each.reads, each.result}:
                if last[value] == index:
                    for each_format in wanted[value]:
                        self._slots.give_back(self._at[value, each_format])
        return self._finish(table, result, padding_id, steps)

    def _demands(self, steps: Sequence[_Fused]) -> tuple[dict[Value, set[Format]], dict[Value, int]]:
        """Return the formats in which each value is read, and the last step that reads it."""
        wanted: dict[Value, set[Format]] = defaultdict(set)
        last: dict[Value, int] = {}
        for index, each in enumerate(steps):
            last.setdefault(each.result, index)
            for value in each.reads:
                last[value] = index
            for value in each.head.inputs:
                wanted[value].add(self._reads_as(each.head))
                window = self._windows.get(each.head.layer.name) if each.head.layer else None
                if window and self._window_of.setdefault(value, window) is not window:
                    raise NotComputed("two layers that read one input have different windows.")
            for extra in (each.added, each.factors):
                if extra is not None:
                    wanted[extra].add(Format.F32)
        return wanted, last

    def _split(self, steps: Sequence[_Fused], result: Value) -> dict[Value, NDArray[np.intp]]:
        """Return for each value that has several columns a channel the channel of each column."""
        channels: dict[Value, NDArray[np.intp]] = {}
        for value, window in self._window_of.items():
            if window.is_split:
                channel, makers = window.columns.channel, _makers(steps, value, result)
                if not makers or len(channel) % WORD:
                    raise NotComputed("a window is split whose input no linear layer makes for it alone.")
                channels |= {step.result: channel for step in makers}
        return channels

    def _width(self, value: Value) -> int:
        return len(self._channels[value]) if value in self._channels else value.width

    def _reads_as(self, value: Value) -> Format:
        if value.operation is Operation.ATTENTION:
            return self._formats.attention
        if value.layer is None:
            return Format.F32
        return Format.U8 if value.layer.name in self._windows else self._formats.linear

    def _fill(self, row: Step, fused: _Fused, wanted: set[Format], is_local: bool) -> None:
        head = fused.head
        reads_as = self._reads_as(head)
        slots = [self._at[value, reads_as] for value in head.inputs]
        row.operation, row.in_format = head.operation, reads_as
        row.input, row.second, row.third = [*slots, -1, -1, -1][:3]
        row.inputs = self._width(head.inputs[0]) if head.inputs else 0
        row.outputs = self._width(fused.result)
        row.window = -1
        for name, given in head.given.items():
            setattr(row, name, given)
        for name, array in head.arrays.items():
            setattr(row, name, self._address(array))
        if head.layer is not None:
            self._fill_linear(row, fused, head.layer)
        for each in Format:
            row.out[each] = -1
        for each in sorted(wanted):
            row.out[each] = self._at[fused.result, each] = self._slots.take(row.outputs, each, is_local)
        if Format.U8 in wanted:
            self._fill_window(row, fused.result)

    def _fill_linear(self, row: Step, fused: _Fused, layer: Layer) -> None:
        row.activation = fused.activation
        for name, value in (("second", fused.added), ("third", fused.factors)):
            setattr(row, name, -1 if value is None else self._at[value, Format.F32])
        weight: NDArray[Any] = self._weights.share(f"{layer.name}.weight", layer.part)
        bias = self._weights.share(f"{layer.name}.bias", layer.part) if layer.has_bias else None
        scale = None
        if window := self._windows.get(layer.name):
            quantised = quantise(weight, bias, window)
            weight, bias = quantised.codes, quantised.bias
            scale = quantised.scales[:, 0] * np.float32(step(window) / (LEVELS - 1))
        rows = self._channels.get(fused.result, slice(None))
        row.weight = self._address(pack(Format(row.in_format), weight[rows]))
        row.bias = None if bias is None else self._padded(bias[rows])
        row.scale = None if scale is None else self._padded(scale[rows])

    def _fill_window(self, row: Step, value: Value) -> None:
        columns = self._window_of[value].columns
        scale = np.float32(LEVELS - 1) / columns.width
        row.u8_scale, row.u8_shift = self._padded(scale), self._padded(-columns.low * scale)

    def _padded(self, vector: NDArray[np.float32]) -> int:
        padded = np.zeros(-(-len(vector) // COLUMNS) * COLUMNS, np.float32)
        padded[: len(vector)] = vector
        return self._address(padded)

    def _address(self, array: NDArray[Any]) -> int:
        array = np.ascontiguousarray(array)
        self._kept.append(array)
        return array.ctypes.data

    def _finish(self, table: Any, result: Value, padding_id: int, steps: Sequence[_Fused]) -> Plan:
        slots = (Slot * len(self._slots.all))()
        for slot, (size, is_local) in zip(slots, self._slots.all, strict=True):
            slot.row_bytes, slot.is_local = size, is_local
        heads = [
            s.head.width // s.head.given["heads"] for s in steps if s.head.operation is Operation.ATTENTION
        ]
        plan = PlanTable(
            table,
            slots,
            len(table),
            len(slots),
            BLOCK,
            self._formats.attention,
            padding_id,
            max(heads, default=0),
        )
        return Plan(plan, result.width, [table, slots, *self._kept])


def _segments(steps: Sequence[_Fused]) -> list[int]:
    """Number the runs of steps that take rows by themselves; a step that takes all is a segment of its own."""
    numbers, number = [], 0
    for each in steps:
        if each.head.operation in _TAKES_ALL:
            number += 2
            numbers.append(number - 1)
        else:
            numbers.append(number)
    return [*numbers, number + 1]
