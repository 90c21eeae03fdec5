"""Our own kernels on the processor: lowers a model's description to a plan, and runs it over packed texts.

Knows precision, arenas and streams; what a step computes is the kernels', what is fused plan.py's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from senryu.engine import int8, kernels
from senryu.engine.batches import prompt_lengths
from senryu.engine.hands import Prepared
from senryu.engine.kernels import BatchTable, address
from senryu.engine.machine import between_products, processor_name
from senryu.engine.model import Model
from senryu.engine.native_ops import NativeOps
from senryu.engine.plan import Formats, Planner
from senryu.errors import EngineError
from senryu.models import ModelSpec
from senryu.types import Batch, Precision, Vectors

# NOTE: raise it with every change of what is computed, here, in plan or in the kernels: other sums are other bits.
ARITHMETIC = {Precision.F32: 1, Precision.BF16: 1, Precision.INT8: 2}

# NOTE: any texts could run together, for nothing is padded. But then a short text's batch would be filled up with long
# ones, and its answer would wait for them.
_SHORTEST_BUCKET = 32

# Of an arena, once it was used: what a long text took is given back.
_KEPT_BYTES = 64 << 20


class NativeEngine:
    """One model as a plan; up to `streams` batches run side by side, each on the thread that asks."""

    name = "native"
    reproducible = True
    batch_seconds = 0.012

    def __init__(self, spec: ModelSpec, *, precision: Precision, threads: int) -> None:
        """Pack the weights.

        Raises ModelError for files that do not fit, kernels.NotComputed for a model that another engine computes.
        """
        _check_native(precision)
        self.precision = precision
        self.streams = threads
        calibration = int8.find(spec) if precision is Precision.INT8 else None
        self.loss = calibration.loss if calibration else None
        between = between_products(precision)
        windows = f" windows={calibration.fingerprint} {between.value}" if calibration else ""
        self.signature = f"native-{ARITHMETIC[precision]} {precision.value}{windows} {processor_name()}"
        self._include_prompt = spec.include_prompt
        self._model = Model(spec)  # NOTE: kept, because steps read tables where they lie in its files
        formats = Formats(kernels.FORMATS[between], kernels.FORMATS[between])
        ops = _describe(self._model)
        self._positions, self._id_count = spec.max_seq_length, ops.id_count
        planner = Planner(self._model.weights, formats, calibration.windows if calibration else {})
        self._plan = planner.plan(ops.values, ops.values[-1], ops.padding_id)
        self._model.weights.release()
        self._library = kernels.library()
        self._arenas: list[NDArray[np.uint8]] = []

    def bucket(self, length: int) -> int:
        return max(_SHORTEST_BUCKET, 1 << (length - 1).bit_length())

    def computed(self, tokens: int) -> int:
        return tokens

    def run(self, batch: Batch) -> Vectors:
        prepared = self.prepare(batch)
        try:
            vectors = address(prepared.vectors)
            self._library.run(prepared.plan, prepared.table, address(prepared.arena), vectors)
            self._library.to_length_1(vectors, *prepared.vectors.shape)
        finally:
            self.release(prepared)
        return prepared.vectors

    def prepare(self, batch: Batch) -> Prepared:
        ids, lengths = _int32(batch.input_ids), _int32(batch.lengths)
        prompts = None if self._include_prompt else _int32(prompt_lengths(batch))
        table = BatchTable(
            address(ids),
            address(lengths),
            None if prompts is None else address(prompts),
            len(ids),
            len(lengths),
        )
        size = self._library.arena_bytes(self._plan.table, table, self._positions, self._id_count)
        if size < 0:
            raise self._misfit(ids, lengths)
        vectors = np.empty((len(lengths), self._plan.width), np.float32)
        return Prepared(self._plan.table, table, self._arena(size), vectors, (ids, lengths, prompts))

    def _arena(self, size: int) -> NDArray[np.uint8]:
        try:
            arena = self._arenas.pop()
        except IndexError:  # NOTE: not asked before, because another thread may take the last one meanwhile
            return kernels.aligned(size)
        return arena if len(arena) >= size else kernels.aligned(size)

    def release(self, prepared: Prepared) -> None:
        if len(prepared.arena) <= _KEPT_BYTES:
            self._arenas.append(prepared.arena)

    def _misfit(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> EngineError:
        """Return what is wrong with a batch of which the kernels would read something out of bounds."""
        read = (
            f"the model reads texts of 1 to {self._positions} tokens, and ids from 0 to {self._id_count - 1}"
        )
        if not len(ids) or not len(lengths):
            return EngineError(f"a batch of {len(lengths)} texts and {len(ids)} tokens; {read}.")
        return EngineError(
            f"texts of {lengths.min()} to {lengths.max()} tokens, {lengths.sum()} together, and {len(ids)} ids from "
            f"{ids.min()} to {ids.max()}; {read}."
        )

    def close(self) -> None:
        self._arenas.clear()


def _check_native(precision: Precision) -> None:
    if not kernels.run(precision):
        raise kernels.NotComputed(
            f"our own kernels do not run in {precision.value} here: they need an x86-64 processor with AVX2 and FMA, "
            f"or AVX-512 (for bf16 with avx512_bf16, for int8 with avx512_vnni), and {kernels.LIBRARY.name}, which the "
            "installation builds."
        )


def _int32(array: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.ascontiguousarray(array, np.int32)


def _describe(model: Model) -> NativeOps:
    """Return the record of a model, whose last value is the vectors. Raises ModelError if its files do not fit."""
    ops = NativeOps(model.weights, *model.sizes)
    vectors = model.vectors(ops)
    model.check_all_read()
    model.check_width(vectors.width)
    return ops
