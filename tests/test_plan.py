"""Plans: what is fused, that no value is overwritten while somebody still reads it, and that neither changes bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from senryu.engine import plan
from senryu.engine.kernels import Format, Operation
from senryu.engine.native_ops import NativeOps, Value
from senryu.engine.weights import Weights
from senryu.models import ModelSpec
from small_plans import NOTHING, FamilyPlan, Texts
from test_encoders import FAMILIES, golden, model_of
from tiny import write_safetensors

FORMATS = [pytest.param(each, id=each.name) for each in Format]
TAKES_ALL = (Operation.ATTENTION, Operation.POOL)
Fused = Any


@pytest.fixture(scope="module")
def spec_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelSpec]:
    made: dict[str, ModelSpec] = {}

    def make(family: str) -> ModelSpec:
        if family not in made:
            made[family] = model_of(tmp_path_factory.mktemp("family"), family)
        return made[family]

    return make


def texts_of(family: str) -> Texts:
    """More tokens than a block has rows, in texts of very different lengths."""
    return [ids[:length] for ids in golden(family)["ids"] for length in (1, 17, 64, 150)]


# ---- what is fused ------------------------------------------------------------------------------------------


@pytest.fixture
def ops(tmp_path: Path) -> NativeOps:
    shapes = {"table": (9, 8), "a": (8, 8), "b": (8, 8)}
    write_safetensors(
        tmp_path / "m.safetensors", {f"{name}.weight": np.ones(of, np.float32) for name, of in shapes.items()}
    )
    return NativeOps(Weights([tmp_path / "m.safetensors"]), 9)


def fused(ops: NativeOps, result: Value) -> list[Fused]:
    return plan.fuse(ops.values, result)


def operations(steps: Sequence[Fused]) -> list[Operation]:
    return [step.head.operation for step in steps]


def test_an_activation_a_product_and_a_sum_go_into_the_layer_before_them(ops: NativeOps) -> None:
    x = ops.gather("table", ops.input_ids())
    gate = ops.activation("silu", ops.linear("a", x, bias=False))
    other = ops.linear("b", x, bias=False)
    result = ops.add(x, ops.multiply(gate, other))
    steps = fused(ops, ops.normalize(result))
    assert operations(steps) == [Operation.GATHER, Operation.LINEAR, Operation.LINEAR, Operation.NORMALIZE]
    (last,) = [step for step in steps if step.result is result]
    assert last.added is x
    assert last.factors in (gate, other)


def test_a_result_that_somebody_else_reads_is_kept(ops: NativeOps) -> None:
    x = ops.gather("table", ops.input_ids())
    layer = ops.linear("a", x, bias=False)
    steps = fused(ops, ops.multiply(ops.activation("silu", layer), layer))
    assert operations(steps) == [
        Operation.GATHER,
        Operation.LINEAR,
        Operation.ACTIVATION,
        Operation.MULTIPLY,
    ]


def test_a_value_times_or_plus_itself_is_not_fused(ops: NativeOps) -> None:
    layer = ops.linear("a", ops.gather("table", ops.input_ids()), bias=False)
    assert operations(fused(ops, ops.add(layer, layer)))[-1] is Operation.ADD
    assert operations(fused(ops, ops.multiply(layer, layer)))[-1] is Operation.MULTIPLY


def test_the_result_of_all_is_never_taken_into_another_step(ops: NativeOps) -> None:
    layer = ops.linear("a", ops.gather("table", ops.input_ids()), bias=False)
    ops.activation("gelu", layer)
    assert fused(ops, layer)[1].result is layer


@pytest.mark.parametrize("order", ["activation last", "two products", "product last", "two activations"])
def test_what_comes_in_another_order_is_a_step_of_its_own(ops: NativeOps, order: str) -> None:
    x = ops.gather("table", ops.input_ids())
    layer = ops.linear("a", x, bias=False)
    result = {
        "activation last": lambda: ops.activation("gelu", ops.add(layer, x)),
        "two products": lambda: ops.multiply(ops.multiply(layer, x), x),
        "product last": lambda: ops.multiply(ops.add(layer, x), x),
        "two activations": lambda: ops.activation("gelu", ops.activation("tanh", layer)),
    }[order]()
    assert len(fused(ops, result)) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_steps_come_after_what_they_read(
    spec_of: Callable[[str], ModelSpec], family: str
) -> None:
    made = FamilyPlan(spec_of(family), Format.F32)
    done: set[Value] = set()
    for step in fused(made.ops, made.result):
        assert done.issuperset(step.reads)
        done.add(step.result)
    assert made.result in done


@pytest.mark.parametrize("of", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_fusing_changes_no_bits(
    spec_of: Callable[[str], ModelSpec], family: str, of: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = FamilyPlan(spec_of(family), of)
    monkeypatch.setattr(plan, "fuse", lambda values, _: [plan._Fused(value, value) for value in values])
    apart = FamilyPlan(spec_of(family), of)
    assert apart.plan.table.step_count > together.plan.table.step_count
    texts = texts_of(family)
    assert apart.run(texts).tobytes() == together.run(texts).tobytes()


# ---- where values lie ---------------------------------------------------------------------------------------


def segments(steps: Sequence[Any]) -> list[int]:
    """Number the runs of steps that go through a block's rows together."""
    numbers = [0]
    for before, step in pairwise(steps):
        numbers.append(numbers[-1] + (step.operation in TAKES_ALL or before.operation in TAKES_ALL))
    return numbers


@pytest.mark.parametrize("of", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_step_of_every_family_finds_what_it_reads(
    spec_of: Callable[[str], ModelSpec], family: str, of: Format
) -> None:
    made = FamilyPlan(spec_of(family), of)
    table = made.plan.table
    steps, slots = table.steps[: table.step_count], table.slots[: table.slot_count]
    wanted = fused(made.ops, made.result)
    assert [step.operation for step in steps] == operations(wanted)
    held: dict[int, tuple[Value, Format, int]] = {}  # slot → what lies in it, and since which segment
    for step, meant, segment in zip(steps, wanted, segments(steps), strict=True):
        in_format = Format(step.in_format)
        reads = [(value, in_format) for value in meant.head.inputs]
        places = [step.input, step.second, step.third][: len(reads)]
        if step.operation == Operation.LINEAR:
            extra = {step.second: meant.added, step.third: meant.factors}
            reads += [(value, Format.F32) for value in extra.values() if value]
            places += [slot for slot, value in extra.items() if value]
        for slot, (value, each) in zip(places, reads, strict=True):
            found, format_of_found, since = held[slot]
            assert (found, format_of_found) == (value, each)
            assert segment == since or not slots[slot].is_local
        results = {each: step.out[each] for each in Format if step.out[each] >= 0}
        assert set(results.values()).isdisjoint(places), "a step must not write what it reads"
        assert len(set(results.values())) == len(results)
        for each, slot in results.items():
            assert slots[slot].row_bytes % 64 == 0
            assert slots[slot].row_bytes >= meant.result.width * each.bytes
            held[slot] = (meant.result, each, segment)
    assert held[steps[-1].out[Format.F32]][:2] == (made.result, Format.F32)


@pytest.mark.parametrize("family", FAMILIES)
def test_slots_are_used_again(spec_of: Callable[[str], ModelSpec], family: str) -> None:
    table = FamilyPlan(spec_of(family), Format.F32).plan.table
    assert table.slot_count < table.step_count / 1.5


@pytest.mark.parametrize("of", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_read_that_was_not_written_before(
    spec_of: Callable[[str], ModelSpec], family: str, of: Format
) -> None:
    made = FamilyPlan(spec_of(family), of)
    texts = texts_of(family)
    prompts = [len(text) // 3 for text in texts]
    vectors = made.run(texts, prompts, fill=NOTHING)
    assert np.isfinite(vectors).all()
    assert made.run(texts, prompts, fill=0).tobytes() == vectors.tobytes()
    assert made.run(texts[::-1], prompts[::-1])[::-1].tobytes() == vectors.tobytes()


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
@pytest.mark.parametrize("of", FORMATS)
@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3"])
def test_bits_do_not_depend_on_how_many_rows_run_together(
    spec_of: Callable[[str], ModelSpec], family: str, of: Format, block: int
) -> None:
    made = FamilyPlan(spec_of(family), of)
    texts = texts_of(family)
    vectors = made.run(texts)
    assert made.plan.table.block < sum(map(len, texts))
    made.plan.table.block = block
    assert made.run(texts).tobytes() == vectors.tobytes()
