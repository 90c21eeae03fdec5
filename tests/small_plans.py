"""Plans run with nothing around them: of a few operations over weights of a test, or of a family's tiny model.

The memory that a plan runs in is filled beforehand, with bytes that are no number in any format, and is watched at
its end, and it runs by every instruction set that the processor has, which must give the same bits. A small plan is
computed in float64, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import engines
from senryu.engine import kernels
from senryu.engine.kernels import BatchTable, Format, InstructionSet
from senryu.engine.model import Model
from senryu.engine.native_ops import NativeOps
from senryu.engine.plan import Formats, Plan, Planner
from senryu.engine.reference import NumpyOps
from senryu.engine.weights import Weights
from senryu.engine.windows import Window, at_mean
from senryu.models import ModelSpec, Pooling
from senryu.types import Precision
from tiny import write_safetensors

NOTHING = 0xFF  # NaN as float32 and as bf16, 255 as u8
GUARD = 256
Describe = Callable[[Any], Any]
Texts = Sequence[Sequence[int]]
PRECISIONS = {Format.F32: Precision.F32, Format.BF16: Precision.BF16, Format.U8: Precision.INT8}


class Running:
    """A plan that is run."""

    plans: Mapping[InstructionSet, Plan]

    @property
    def plan(self) -> Plan:
        """The plan for the widest instruction set."""
        return next(iter(self.plans.values()))

    def run(
        self, texts: Texts, prompts: Sequence[int] | None = None, fill: int = NOTHING
    ) -> NDArray[np.float32]:
        """Return the last step's row of each text; without a pooling a text is one token."""
        ids = np.array([each for text in texts for each in text], np.int32)
        lengths = np.array([len(text) for text in texts], np.int32)
        left_out = np.array(prompts or [0] * len(texts), np.int32)
        table = BatchTable(ids.ctypes.data, lengths.ctypes.data, left_out.ctypes.data, len(ids), len(lengths))
        found = []
        for of, plan in self.plans.items():
            with engines.only(of):
                library = kernels.library()
            size = library.arena_bytes(plan.table, table, int(lengths.max()), int(ids.max()) + 1)
            arena = kernels.aligned(size + GUARD)
            arena.fill(fill)
            vectors = np.full((len(texts) + 1, plan.width), np.nan, np.float32)
            library.run(plan.table, table, arena.ctypes.data, vectors.ctypes.data)
            assert (arena[size:] == fill).all(), "written past the arena"
            assert np.isnan(vectors[-1]).all(), "written past the vectors"
            found.append(vectors[:-1])
        for other in found[1:]:
            np.testing.assert_array_equal(found[0].view(np.int32), other.view(np.int32))
        return found[0]


class SmallPlan(Running):
    """One description as a plan. `of`: what its layers multiply, and attention; a layer with a window multiplies u8."""

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, NDArray[np.float32]],
        describe: Describe,
        of: Format = Format.F32,
        *,
        windows: Mapping[str, Window] | None = None,
        positions: int = 1,
    ) -> None:
        """Write the tensors to a file and lower the description over them."""
        engines.skip_without_kernels(PRECISIONS[Format.U8 if windows else of])
        path = folder / "model.safetensors"
        path.unlink(missing_ok=True)
        write_safetensors(path, tensors)
        self.describe = describe
        self.weights = Weights([path])
        ops = NativeOps(self.weights, positions)
        result = describe(ops)
        precision = PRECISIONS[Format.U8 if windows else of]
        self.plans = by_instruction_set(
            precision,
            lambda: Planner(self.weights, Formats(of, of), windows or {}).plan(
                ops.values, result, ops.padding_id
            ),
        )

    def exact(self, texts: Texts, prompts: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Return in float64 what `run` should."""
        return np.concatenate(
            [
                self.describe(NumpyOps(self.weights, np.array(text, np.int32), min(prompt, len(text))))
                for text, prompt in zip(texts, prompts or [0] * len(texts), strict=True)
            ]
        )


class FamilyPlan(Running):
    """A model as a plan. `of` U8: every linear layer has a window, the same for all of one width."""

    def __init__(self, spec: ModelSpec, of: Format) -> None:
        """Lower the model's description."""
        engines.skip_without_kernels(PRECISIONS[of])
        model = Model(spec)
        self.ops = NativeOps(model.weights, spec.max_seq_length)
        self.result = model.vectors(self.ops)
        layers = [(value.layer.name, value.inputs[0].width) for value in self.ops.values if value.layer]
        windows = {width: window(width) for _, width in layers}
        by_name = {name: windows[width] for name, width in layers} if of is Format.U8 else {}
        between = Format.F32 if of is Format.U8 else of
        self.plans = by_instruction_set(
            PRECISIONS[of],
            lambda: Planner(model.weights, Formats(between, between), by_name).plan(
                self.ops.values, self.result, self.ops.padding_id
            ),
        )


def by_instruction_set(precision: Precision, plan: Callable[[], Plan]) -> dict[InstructionSet, Plan]:
    """Make a plan for each instruction set that computes a precision here."""
    made = {}
    for of in engines.instruction_sets(precision):
        with engines.only(of):
            made[of] = plan()
    return made


def window(width: int) -> Window:
    """Return a window that most numbers of a tiny model lie in."""
    ones = np.ones(width, np.float32)
    return at_mean(-4 * ones, 4 * ones, 0 * ones)


def first_token(ops: Any, x: Any) -> Any:
    """Pool so that a text's row is its first token behind the prompt."""
    return ops.pool(x, Pooling.CLS, include_prompt=False)


def singles(rows: int) -> list[list[int]]:
    """Texts of one token each, the rows of a table in their order."""
    return [[row] for row in range(rows)]
