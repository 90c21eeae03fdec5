"""What this machine can do at most: matrix products alone, at given shapes, by the libraries that run the models.

Knows shapes, precision and threads; nothing of models and texts, nor of what its figures are compared with.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from senryu.engine import kernels
from senryu.engine.kernels import WORD, BatchTable, Operation
from senryu.engine.machine import between_products
from senryu.engine.native_ops import POOLINGS, Layer, Value
from senryu.engine.plan import Formats, Planner
from senryu.engine.windows import Window, at_mean
from senryu.errors import SettingError
from senryu.models import Pooling
from senryu.types import Precision

# Rows of a product that all threads share, and of products that run one a thread.
WIDE_TOKENS, NARROW_TOKENS = 1024, 512
# Products there and back in one run: enough that reading the input and reducing the output cost next to nothing.
DEPTH = 2
WIDEST = 8.0  # of numbers near 1, for int8


class MatrixProducts(Protocol):
    """Products of rows with weights [inputs, outputs] and back, with nothing between them."""

    flops: int  # of one run
    streams: int  # how many runs go side by side

    def run(self) -> float:
        """Compute all products and return the greatest number of the last; blocks, from any thread."""
        ...


def matrix_products(
    inputs: int, outputs: int, *, precision: Precision, threads: int
) -> Iterator[MatrixProducts]:
    """Yield the ways in which a library here may take the threads; the fastest is what the machine can do.

    Raises SettingError for a precision that none of them is measured in.
    """
    has_kernels = kernels.run(precision) and inputs % WORD == outputs % WORD == 0
    if has_kernels:
        yield NativeProducts(inputs, outputs, tokens=NARROW_TOKENS, precision=precision, streams=threads)
    if precision is not Precision.INT8:
        # NOTE: beside our own kernels too: what they are held against must not be as slow as they may be.
        from senryu.engine.openvino_peak import OpenVinoProducts

        for tokens, streams in ((WIDE_TOKENS, 1), (NARROW_TOKENS, threads)):
            yield OpenVinoProducts(
                inputs, outputs, tokens=tokens, precision=precision, threads=threads, streams=streams
            )
    elif not has_kernels:
        raise SettingError(
            "precision: int8 is measured by our own kernels alone, which do not run here; take f32 or bf16."
        )


class NativeProducts:
    """Matrix products by our own kernels, one run a thread."""

    def __init__(self, inputs: int, outputs: int, *, tokens: int, precision: Precision, streams: int) -> None:
        """Pack the weights."""
        self.flops = flops(inputs, outputs, tokens)
        self.streams = streams
        self._ids, self._lengths = np.arange(tokens, dtype=np.int32), np.array([tokens], np.int32)
        self._batch = BatchTable(self._ids.ctypes.data, self._lengths.ctypes.data, None, tokens, 1)
        of = kernels.FORMATS[between_products(precision)]
        named = {f"{index}.weight": weight for index, weight in enumerate(weights(inputs, outputs))}
        windows = {}
        if precision is Precision.INT8:
            windows = {name.removesuffix(".weight"): _window(each.shape[1]) for name, each in named.items()}
        values = _chain(rows(inputs, tokens), named)
        planner = Planner(_Made(named), Formats(of, of), windows)
        self._plan = planner.plan(values, values[-1], padding_id=-1)
        self._arenas: queue.SimpleQueue[NDArray[np.uint8]] = queue.SimpleQueue()
        for _ in range(streams):
            self._arenas.put(
                kernels.aligned(kernels.library().arena_bytes(self._plan.table, self._batch, tokens, tokens))
            )

    def run(self) -> float:
        vector, arena = np.empty(self._plan.width, np.float32), self._arenas.get()
        try:
            kernels.library().run(self._plan.table, self._batch, arena.ctypes.data, vector.ctypes.data)
        finally:
            self._arenas.put(arena)
        return float(vector.max())


class _Made:
    """Weights that no file holds."""

    def __init__(self, named: dict[str, NDArray[np.float32]]) -> None:
        self._named = named

    def share(self, name: str, part: tuple[int, int]) -> NDArray[np.float32]:
        return self._named[name]


def _chain(table: NDArray[np.float32], named: dict[str, NDArray[np.float32]]) -> list[Value]:
    values = [Value(Operation.GATHER, (), table.shape[1], {"index": 0}, {"weight": table})]
    for name, weight in named.items():
        layer = Layer(name.removesuffix(".weight"), (0, 1), has_bias=False)
        values.append(Value(Operation.LINEAR, (values[-1],), len(weight), layer=layer))
    pooled = {"index": POOLINGS.index(Pooling.MAX)}
    return [*values, Value(Operation.POOL, (values[-1],), values[-1].width, pooled)]


def _window(channels: int) -> Window:
    high = np.full(channels, WIDEST / 2, np.float32)
    return at_mean(-high, high, np.zeros(channels, np.float32))


def flops(inputs: int, outputs: int, tokens: int) -> int:
    """Count those of all products of a run."""
    return 4 * DEPTH * tokens * inputs * outputs


def rows(inputs: int, tokens: int) -> NDArray[np.float32]:
    """Return the rows that the first product takes."""
    return np.random.default_rng(0).standard_normal((tokens, inputs), np.float32)


def weights(inputs: int, outputs: int) -> Iterator[NDArray[np.float32]]:
    """Yield the weight of each product, the first one's [outputs, inputs]."""
    rng = np.random.default_rng(1)
    for shape in [(outputs, inputs), (inputs, outputs)] * DEPTH:
        # NOTE: scaled so that the numbers stay near 1: products of subnormal or infinite ones have other speeds.
        yield rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[1]))
