"""The kernels against NumPy in float64: every operation in every format, at sizes where a vector or a block is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engines
from senryu import outputs
from senryu.engine import kernels
from senryu.engine.kernels import Format, NotComputed
from senryu.engine.windows import Window, as_stored, at_mean, quantise, step
from senryu.models import Pooling
from senryu.types import Precision
from small_plans import SmallPlan, first_token, singles, window

Array = NDArray[np.float32]
ROWS = (*range(1, 14), 193, 400)
FORMATS = [pytest.param(each, id=each.name) for each in Format]
WIDE = [pytest.param(each, id=each.name) for each in (Format.F32, Format.BF16)]
WIDTHS = (1, 4, 15, 16, 17, 63, 64, 65, 100, 384)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def whole(low: int, high: int, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(np.float32)


def look_up(ops: Any) -> Any:
    return ops.gather("table", ops.input_ids())


# ---- linear layers ------------------------------------------------------------------------------------------


def exact_layer(of: Format, outputs: int, inputs: int) -> tuple[dict[str, Array], dict[str, Window]]:
    """Numbers whose products and sums every format has exactly."""
    if of is not Format.U8:
        weight, table = whole(-8, 8, outputs, inputs), whole(-8, 8, max(ROWS), inputs, seed=1)
        return {"table.weight": table, "x.weight": weight, "x.bias": whole(-99, 99, outputs)}, {}
    weight, table = whole(-127, 127, outputs, inputs), whole(0, 255, max(ROWS), inputs, seed=1)
    weight[:, 0] = 127  # so that a code is the weight itself
    zeros = np.zeros(inputs, np.float32)
    tensors = {"table.weight": table, "x.weight": weight, "x.bias": whole(-99, 99, outputs)}
    return tensors, {"x": at_mean(zeros, zeros + 255, zeros)}


@pytest.mark.parametrize("inputs", [4, 12, 384])
@pytest.mark.parametrize("outputs", [1, 63, 64, 65, 100])
@pytest.mark.parametrize("of", FORMATS)
def test_a_layer_of_whole_numbers_is_exact(tmp_path: Path, of: Format, outputs: int, inputs: int) -> None:
    tensors, windows = exact_layer(of, outputs, inputs)
    between = Format.F32 if of is Format.U8 else of
    plan = SmallPlan(tmp_path, tensors, lambda ops: ops.linear("x", look_up(ops)), between, windows=windows)
    expected = tensors["table.weight"].astype(np.float64) @ tensors["x.weight"].T + tensors["x.bias"]
    for rows in ROWS:
        np.testing.assert_array_equal(plan.run(singles(rows)), expected[:rows])


@pytest.mark.parametrize("outputs", [1, 65, 100])
def test_a_layer_in_f32_is_as_exact_as_its_sums(tmp_path: Path, outputs: int) -> None:
    tensors = {"table.weight": normal(50, 384, seed=1), "x.weight": normal(outputs, 384)}
    plan = SmallPlan(tmp_path, tensors, lambda ops: ops.linear("x", look_up(ops), bias=False))
    sizes = np.abs(tensors["table.weight"]).astype(np.float64) @ np.abs(tensors["x.weight"]).T
    assert (np.abs(plan.run(singles(50)) - plan.exact(singles(50))) <= 2e-7 * sizes).all()


@pytest.mark.parametrize("outputs", [1, 65, 100])
def test_a_layer_in_bf16_loses_what_rounding_to_bf16_does(tmp_path: Path, outputs: int) -> None:
    tensors = {"table.weight": normal(50, 384, seed=1), "x.weight": normal(outputs, 384)}
    plan = SmallPlan(tmp_path, tensors, lambda ops: ops.linear("x", look_up(ops), bias=False), Format.BF16)
    rounded = [as_bf16(tensors[name]).astype(np.float64) for name in ("table.weight", "x.weight")]
    sizes = np.abs(rounded[0]) @ np.abs(rounded[1]).T
    assert (np.abs(plan.run(singles(50)) - rounded[0] @ rounded[1].T) <= 2e-7 * sizes).all()


@pytest.mark.parametrize("width", [12, 64, 100, 128])
@pytest.mark.parametrize("of", FORMATS)
def test_a_layer_behind_a_layer_is_exact(tmp_path: Path, of: Format, width: int) -> None:
    tensors, windows = exact_layer(of, 65, width)
    tensors["turn.weight"] = np.roll(
        np.eye(width, dtype=np.float32), 5, axis=1
    )  # what it makes of u8 is whole
    if windows:
        windows["turn"] = windows["x"]

    def describe(ops: Any) -> Any:
        return ops.linear("x", ops.activation("relu", ops.linear("turn", look_up(ops), bias=False)))

    between = Format.F32 if of is Format.U8 else of
    plan = SmallPlan(tmp_path, tensors, describe, between, windows=windows)
    for rows in (1, 7, 13, 400):
        np.testing.assert_array_equal(plan.run(singles(rows)), plan.exact(singles(rows)))


def as_bf16(x: Array) -> Array:
    """Round to the nearest bf16, to the even one of two."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def test_a_layer_in_u8_is_what_its_codes_amount_to(tmp_path: Path) -> None:
    low, high = as_stored(normal(12, seed=2) - 3), as_stored(normal(12, seed=3) + 3)
    table = np.clip(normal(60, 12), low, high)
    tensors = {"table.weight": table, "x.weight": normal(70, 12, seed=1), "x.bias": normal(70)}
    windows = {"x": at_mean(low, high, (low + high) / 2)}
    plan = SmallPlan(tmp_path, tensors, lambda ops: ops.linear("x", look_up(ops)), windows=windows)
    difference = plan.run(singles(60)) - plan.exact(singles(60))
    widths = (high - low).astype(np.float64)
    # Half a step of the inputs, and half a step of the weights as they are scaled by their windows.
    by_inputs = np.abs(tensors["x.weight"]) @ widths / 510
    by_weights = np.abs(tensors["x.weight"] * widths).max(axis=1) / 254 * 12 * 1.01
    assert (np.abs(difference) <= by_inputs + by_weights).all()
    assert np.abs(difference).max() > 1e-3  # or nothing was quantised


@pytest.mark.parametrize("behind", ["a table", "a layer"])
@pytest.mark.parametrize("width", [12, 100, 128])
def test_every_channel_has_a_window_of_its_own(tmp_path: Path, width: int, behind: str) -> None:
    low, high = as_stored(normal(width, seed=4) - 3), as_stored(normal(width, seed=5) + 3)
    tensors = {
        "table.weight": normal(60, width),
        "turn.weight": np.eye(width, dtype=np.float32),
        "x.weight": normal(70, width, seed=1),
        "x.bias": normal(70),
    }
    own = at_mean(low, high, (low + high) / 2)

    def describe(ops: Any) -> Any:
        x = look_up(ops)
        return ops.linear("x", x if behind == "a table" else ops.linear("turn", x, bias=False))

    plan = SmallPlan(tmp_path, tensors, describe, windows={"x": own})
    made = quantise(tensors["x.weight"], tensors["x.bias"], own)
    scale = np.float32(255) / (high - low)
    levels = np.clip(np.rint(tensors["table.weight"].astype(np.float64) * scale - low * scale), 0, 255)
    expected = levels @ made.codes.T.astype(np.float64) * made.scales[:, 0] * (step(own) / 255)
    np.testing.assert_allclose(plan.run(singles(60)), expected + made.bias, rtol=1e-5, atol=1e-5)


def test_what_lies_outside_a_window_counts_as_its_edge(tmp_path: Path) -> None:
    tensors, windows = exact_layer(Format.U8, 65, 12)
    tensors["table.weight"] = np.array([[-1e30] * 12, [0] * 12, [1e30] * 12, [255] * 12], np.float32)
    plan = SmallPlan(tmp_path, tensors, lambda ops: ops.linear("x", look_up(ops)), windows=windows)
    rows = plan.run(singles(4))
    assert rows[0].tobytes() == rows[1].tobytes() != rows[2].tobytes()
    assert rows[2].tobytes() == rows[3].tobytes()


def test_layers_that_read_the_same_by_different_windows_are_left_to_another_engine(tmp_path: Path) -> None:
    tensors = {"table.weight": normal(9, 12), "x.weight": normal(9, 12), "y.weight": normal(9, 12)}

    def describe(ops: Any) -> Any:
        x = look_up(ops)
        return ops.add(ops.linear("x", x, bias=False), ops.linear("y", x, bias=False))

    SmallPlan(tmp_path, tensors, describe, windows=dict.fromkeys("xy", window(12)))
    with pytest.raises(NotComputed, match="two layers that read one input have different windows"):
        SmallPlan(tmp_path, tensors, describe, windows={"x": window(12), "y": window(12)})


@pytest.mark.parametrize("of", WIDE)
@pytest.mark.parametrize("share", range(3))
def test_a_share_of_a_layer_is_its_own_outputs(tmp_path: Path, of: Format, share: int) -> None:
    tensors = {
        "table.weight": whole(-8, 8, 9, 8),
        "x.weight": whole(-8, 8, 69, 8),
        "x.bias": whole(-9, 9, 69),
    }
    plan = SmallPlan(tmp_path, tensors, lambda ops: ops.linear("x", look_up(ops), part=(share, 3)), of)
    np.testing.assert_array_equal(plan.run(singles(9)), plan.exact(singles(9)))


@pytest.mark.parametrize("of", FORMATS)
@pytest.mark.parametrize("outputs", [20, 64, 100])
def test_what_follows_a_layer_is_done_to_its_result(tmp_path: Path, of: Format, outputs: int) -> None:
    tensors, windows = exact_layer(of, outputs, 12)
    tensors |= {f"y.{name}": tensors[f"x.{name}"][::-1].copy() for name in ("weight", "bias")}

    def describe(ops: Any) -> Any:
        x = look_up(ops)
        product = ops.multiply(ops.activation("relu", ops.linear("x", x)), ops.linear("y", x))
        return ops.add(product, ops.linear("x", x))

    layers = {"x": windows["x"], "y": windows["x"]} if windows else None
    between = Format.F32 if of is Format.U8 else of
    plan = SmallPlan(tmp_path, tensors, describe, between, windows=layers)
    exact = plan.exact(singles(200))
    np.testing.assert_allclose(plan.run(singles(200)), exact, rtol=1e-6, atol=1e-6 * np.abs(exact).max())


# ---- activations --------------------------------------------------------------------------------------------

POINTS = np.concatenate(
    [
        np.linspace(-20, 20, 16_001),
        np.geomspace(1e-38, 1, 200),
        -np.geomspace(1e-38, 1, 200),
        [0.0, -0.0, 1e-45, -1e-45, 5.3, -5.3, 0.1, -0.1, 87.0, -87.0, 88.8, -88.8, 100.0, -100.0],
    ]
).astype(np.float32)
HUGE = np.array([1e3, 1e6, 1e30, 3e38, -1e3, -1e6, -1e12], np.float32)
# What a result may be off by, as share of its size, and as share of its argument's or of 1.
ERRORS = {
    "gelu": (0.0, 3e-7),
    "gelu_tanh": (0.0, 3e-7),
    "relu": (0.0, 0.0),
    "silu": (3e-7, 3e-7),
    "tanh": (0.0, 1e-6),
}


def of_points(points: Array) -> Array:
    return np.resize(points, (-(-len(points) // 16), 16))


@pytest.mark.parametrize("kind", ERRORS)
def test_an_activation_is_as_exact_as_promised(tmp_path: Path, kind: Any) -> None:
    table = of_points(POINTS)
    plan = SmallPlan(tmp_path, {"table.weight": table}, lambda ops: ops.activation(kind, look_up(ops)))
    given, exact = plan.run(singles(len(table))), plan.exact(singles(len(table)))
    relative, absolute = ERRORS[kind]
    bound = relative * np.abs(exact) + absolute * np.minimum(np.abs(table), 1) + 1.2e-7 * np.abs(exact)
    worst = np.abs(given - exact) - np.maximum(bound, 1e-37) - absolute * np.maximum(np.abs(table) - 1, 0)
    assert worst.max() <= 0, (table.flat[worst.argmax()], given.flat[worst.argmax()])


def test_a_gelu_that_becomes_eight_bits_is_rough_by_far_less_than_they_are(tmp_path: Path) -> None:
    """NOTE: numbers that are rounded to 256 levels in the end need no more than three right digits before."""
    table = np.resize(np.linspace(-9, 9, 50_001).astype(np.float32), (3_126, 16))
    low, high = np.full(16, -0.17, np.float32), np.full(16, 1.0, np.float32)
    windows = {"x": at_mean(low, high, (low + high) / 2)}
    tensors = {"table.weight": table, "x.weight": np.eye(16, dtype=np.float32)}

    def describe(ops: Any) -> Any:
        return ops.linear("x", ops.activation("gelu", look_up(ops)), bias=False)

    plan = SmallPlan(tmp_path, tensors, describe, windows=windows)
    exact = np.clip(plan.exact(singles(len(table))), low, high)
    wrong = np.abs(plan.run(singles(len(table))) - exact)
    half_a_level = (high - low)[0] / 255 / 2
    assert half_a_level * 0.99 < wrong.max() < half_a_level * 1.15


@pytest.mark.parametrize("kind", ERRORS)
def test_an_activation_of_a_huge_number_is_its_limit(tmp_path: Path, kind: Any) -> None:
    table = of_points(HUGE)
    plan = SmallPlan(tmp_path, {"table.weight": table}, lambda ops: ops.activation(kind, look_up(ops)))
    with np.errstate(over="ignore"):
        exact = plan.exact(singles(len(table)))
    assert (np.abs(plan.run(singles(len(table))) - exact) <= 4e-7 * np.abs(table)).all()


@pytest.mark.parametrize("kind", ERRORS)
def test_an_activation_has_the_same_bits_behind_a_layer_and_by_itself(tmp_path: Path, kind: Any) -> None:
    tensors = {"table.weight": of_points(POINTS), "x.weight": np.eye(16, dtype=np.float32)}

    def describe(ops: Any) -> Any:
        x = look_up(ops)
        return ops.activation(kind, ops.linear("x", x, bias=False))

    behind = SmallPlan(tmp_path, tensors, describe)
    by_itself = SmallPlan(tmp_path, tensors, lambda ops: ops.activation(kind, look_up(ops)))
    rows = singles(len(tensors["table.weight"]))
    np.testing.assert_array_equal(behind.run(rows), by_itself.run(rows))  # -0 is 0


# ---- norms and what takes numbers one by one ----------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_layer_norm_is_exact_however_far_its_mean_is_off(tmp_path: Path, width: int, bias: bool) -> None:
    table = normal(40, width) + whole(-1000, 1000, 40, 1)
    tensors = {"table.weight": table, "n.weight": normal(width), "n.bias": normal(width, seed=1)}
    plan = SmallPlan(tmp_path, tensors, lambda ops: ops.layer_norm("n", look_up(ops), 1e-5, bias=bias))
    np.testing.assert_allclose(plan.run(singles(40)), plan.exact(singles(40)), atol=4e-4)
    tensors["table.weight"] = normal(40, width)
    near = SmallPlan(tmp_path, tensors, plan.describe)
    np.testing.assert_allclose(near.run(singles(40)), near.exact(singles(40)), atol=4e-6)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("head", WIDTHS)
def test_an_rms_norm_takes_each_head_by_itself(tmp_path: Path, head: int, heads: int) -> None:
    tensors = {"table.weight": normal(30, head * heads), "n.weight": normal(head)}

    def describe(ops: Any) -> Any:
        return ops.rms_norm("n", look_up(ops), 1e-6, heads=heads, offset=1.0)

    plan = SmallPlan(tmp_path, tensors, describe)
    np.testing.assert_allclose(plan.run(singles(30)), plan.exact(singles(30)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("width", [1, 16, 17, 100])
def test_sums_products_and_scales_are_exact(tmp_path: Path, width: int) -> None:
    tensors = {"table.weight": whole(-99, 99, 30, width), "other.weight": whole(-99, 99, 30, width, seed=1)}

    def describe(ops: Any) -> Any:
        a, b = look_up(ops), ops.gather("other", ops.input_ids())
        return ops.scale(ops.add(ops.multiply(a, ops.add(a, b)), ops.row("other", 3)), 0.5)

    plan = SmallPlan(tmp_path, tensors, describe)
    np.testing.assert_array_equal(plan.run(singles(30)), plan.exact(singles(30)))


@pytest.mark.parametrize("width", [1, 16, 17, 100])
def test_a_vector_is_put_to_length_one(tmp_path: Path, width: int) -> None:
    table = normal(30, width)
    table[4] = 0
    plan = SmallPlan(tmp_path, {"table.weight": table}, lambda ops: ops.normalize(look_up(ops)))
    np.testing.assert_allclose(plan.run(singles(30)), plan.exact(singles(30)), atol=3e-7)


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e-30, 1e18])
@pytest.mark.parametrize("width", [1, 7, 8, 17, 127, 128, 129, 136, 257, 300, 384, 1000, 1024, 4096, 8193])
def test_a_text_has_the_length_one_that_numpy_gives_it(width: int, scale: float) -> None:
    engines.skip_without_kernels(Precision.F32)
    vectors = normal(5, width, seed=width, scale=scale)
    vectors[2] = 0
    expected = outputs.normalise(vectors)
    kernels.library().to_length_1(kernels.address(vectors), *vectors.shape)
    assert vectors.tobytes() == expected.tobytes()


@pytest.mark.parametrize("harm", [np.nan, np.inf, -np.inf, 1e30])
def test_a_text_without_a_finite_length_is_no_number_throughout(harm: float) -> None:
    engines.skip_without_kernels(Precision.F32)
    vectors = normal(3, 50)
    vectors[1, 49] = harm
    expected = outputs.normalise(vectors)
    kernels.library().to_length_1(kernels.address(vectors), *vectors.shape)
    assert np.isnan(expected[1]).all()
    assert np.isnan(vectors[1]).all()
    assert vectors[[0, 2]].tobytes() == expected[[0, 2]].tobytes()


@pytest.mark.parametrize("half", [1, 4, 8, 16, 17, 64])
def test_rotary_turns_each_head_by_its_tokens_place(tmp_path: Path, half: int) -> None:
    tensors = {"table.weight": normal(50, 6 * half)}
    frequencies = (10_000.0 ** -(np.arange(half) / half)).astype(np.float32)

    def describe(ops: Any) -> Any:
        return first_token(ops, ops.rotary(look_up(ops), 3, frequencies))

    plan = SmallPlan(tmp_path, tensors, describe, positions=300)
    texts = [[(7 * i) % 50 for i in range(300)]] * 4
    places = [0, 1, 150, 299]
    np.testing.assert_allclose(plan.run(texts, places), plan.exact(texts, places), atol=1e-6)


# ---- attention ----------------------------------------------------------------------------------------------

LENGTHS = (1, 2, 15, 16, 17, 63, 64, 65, 200)
LONGEST = 700
SLOPES = (0.5, 0.25, 0.0625, 0.7)
KINDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "plain": lambda _: {},
    "causal": lambda _: {"causal": True},
    "near": lambda _: {"window": 5},
    "less near": lambda _: {"window": 70, "scale": 0.2},
    "near and causal": lambda _: {"window": 17, "causal": True},
    "itself": lambda _: {"window": 0},
    "alibi": lambda ops: {"bias": ops.alibi(SLOPES)},
    "relative": lambda ops: {"bias": ops.relative_bias("bias", [*range(9), *range(9, 1, -1)], 4)},
    "shared keys": lambda _: {"key_heads": 2},
    "one key, near": lambda _: {"key_heads": 1, "window": 33},
}


def attending(tmp_path: Path, kind: str, head: int, of: Format, sharpness: float = 1.0) -> SmallPlan:
    key_heads = {"shared keys": 2, "one key, near": 1}.get(kind, 4)
    width, keys = 4 * head, key_heads * head
    tensors = {
        "table.weight": normal(90, 24, seed=3),
        "bias.weight": normal(10, 4),
        "q.weight": normal(width, 24, scale=sharpness / np.sqrt(24)),
        "k.weight": normal(keys, 24, seed=1, scale=1 / np.sqrt(24)),
        "v.weight": normal(keys, 24, seed=2, scale=1 / np.sqrt(24)),
    }

    def describe(ops: Any) -> Any:
        x = look_up(ops)
        q, k, v = (ops.linear(name, x, bias=False) for name in "qkv")
        return first_token(ops, ops.attention(q, k, v, 4, **KINDS[kind](ops)))

    return SmallPlan(tmp_path, tensors, describe, of, positions=LONGEST)


def some_places(length: int) -> list[int]:
    return sorted({0, 1, 6, 17, length // 3, length // 2, length - 2, length - 1} & set(range(length)))


def text(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([length, seed]).integers(0, 90, length).tolist()


def seen(lengths: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """Texts, several times each, and the place in each that is looked at."""
    pairs = [(text(length), place) for length in lengths for place in some_places(length)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@pytest.mark.parametrize("of", WIDE)
@pytest.mark.parametrize("head", [2, 8, 20, 32, 64, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_over_texts_of_very_different_lengths(
    tmp_path: Path, kind: str, head: int, of: Format
) -> None:
    plan = attending(tmp_path, kind, head, of)
    texts, places = seen((*LENGTHS, LONGEST) if head == 32 else LENGTHS)
    difference = np.abs(plan.run(texts, places) - exact_tokens(plan, texts, places)).max()
    assert difference <= (3e-6 if of is Format.F32 else 0.04)


def exact_tokens(plan: SmallPlan, texts: list[list[int]], places: list[int]) -> NDArray[np.float64]:
    """Return the plan's exact tokens, with each text's attention computed once."""
    found: dict[int, NDArray[np.float64]] = {}

    class EveryToken:
        def __init__(self, ops: Any) -> None:
            self._ops = ops

        def __getattr__(self, name: str) -> Any:
            return getattr(self._ops, name)

        def pool(self, x: Any, pooling: Pooling, *, include_prompt: bool) -> Any:
            return x

    pooled, plan.describe = plan.describe, lambda ops: pooled(EveryToken(ops))
    for each in texts:
        if len(each) not in found:
            found[len(each)] = plan.exact([each])
    plan.describe = pooled
    return np.array([found[len(each)][place] for each, place in zip(texts, places, strict=True)])


@pytest.mark.parametrize("of", WIDE)
@pytest.mark.parametrize("sharpness", [0.0, 30.0, 1e4])
def test_attention_to_all_alike_or_to_one_alone(tmp_path: Path, sharpness: float, of: Format) -> None:
    plan = attending(tmp_path, "plain", 8, of, sharpness)
    texts, places = seen((1, 17, 200))
    given = plan.run(texts, places)
    assert np.isfinite(given).all()
    if of is Format.F32:
        worst = np.abs(given - plan.exact(texts, places)).max()
        assert worst <= (1e-5 if sharpness < 100 else 2e-2)


# ---- pooling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 24, 100])
@pytest.mark.parametrize("pooling", list(Pooling))
def test_each_pooling_leaves_the_prompt_out(tmp_path: Path, pooling: Pooling, width: int) -> None:
    plan = SmallPlan(
        tmp_path,
        {"table.weight": normal(90, width) - 0.5},
        lambda ops: ops.pool(look_up(ops), pooling, include_prompt=False),
    )
    texts, prompts = [], []
    for length in (1, 2, 5, 64, 700):
        for prompt in sorted({0, 1, 2, length // 2, length - 1, length}):
            texts.append(text(length, prompt))
            prompts.append(min(prompt, length))
    np.testing.assert_allclose(plan.run(texts, prompts), plan.exact(texts, prompts), rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("pooling", list(Pooling))
def test_each_pooling_takes_every_token_where_prompts_belong_to_the_text(
    tmp_path: Path, pooling: Pooling
) -> None:
    plan = SmallPlan(tmp_path, {"table.weight": normal(90, 24)}, lambda ops: ops.pool(look_up(ops), pooling))
    texts = [text(length) for length in (3, 64, 1)]
    assert plan.run(texts, [2, 9, 1]).tobytes() == plan.run(texts).tobytes()
    np.testing.assert_allclose(plan.run(texts), plan.exact(texts), rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("width", [8, 20])
def test_what_stands_behind_the_pooling_takes_texts_for_rows(tmp_path: Path, width: int) -> None:
    tensors = {"table.weight": whole(-8, 8, 90, width), "x.weight": whole(-8, 8, 70, width)}

    def describe(ops: Any) -> Any:
        pooled = ops.pool(look_up(ops), Pooling.MAX)
        return ops.activation("relu", ops.linear("x", pooled, bias=False))

    plan = SmallPlan(tmp_path, tensors, describe)
    texts = [text(1 + number % 9, number) for number in range(250)]
    np.testing.assert_array_equal(plan.run(texts), plan.exact(texts))


# ---- places -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [None, 0, 1, 7])
def test_a_token_knows_its_place_in_its_own_text(tmp_path: Path, padding: int | None) -> None:
    def describe(ops: Any) -> Any:
        return first_token(ops, ops.gather("places", ops.position_ids(padding)))

    plan = SmallPlan(tmp_path, {"places.weight": whole(-99, 99, 60, 8)}, describe, positions=50)
    ids = [[3, 7, 7, 1, 0, 2] * 8, [7], [1, 1, 0, 0], [0, 5, 1, 5, 7]]
    texts = [each for each in ids for _ in each]
    places = [place for each in ids for place in range(len(each))]
    np.testing.assert_array_equal(plan.run(texts, places), plan.exact(texts, places))


# ---- what is no number --------------------------------------------------------------------------------------

HARMS = [np.nan, np.inf, -np.inf]


def encoder(ops: Any) -> Any:
    """Every kind of step over a table, as an encoder has them."""
    x = ops.layer_norm("n", look_up(ops), 1e-5)
    q, k, v = (ops.linear(name, x, bias=False) for name in "qkv")
    turned = (ops.rotary(each, 2, np.array([1.0, 0.1, 0.01, 0.001], np.float32)) for each in (q, k))
    x = ops.add(x, ops.linear("o", ops.attention(*turned, v, 2), bias=False))
    gate = ops.activation("silu", ops.linear("up", ops.rms_norm("r", x, 1e-6), bias=False))
    x = ops.add(x, ops.linear("down", ops.multiply(gate, ops.linear("gate", x, bias=False)), bias=False))
    return ops.pool(x, Pooling.MEAN)


def weights_of_encoder() -> dict[str, Array]:
    square = {f"{name}.weight": normal(16, 16, seed=number, scale=0.3) for number, name in enumerate("qkvo")}
    return square | {
        "table.weight": normal(90, 16),
        "n.weight": normal(16),
        "n.bias": normal(16, seed=9),
        "r.weight": normal(16, seed=8),
        "up.weight": normal(40, 16, scale=0.3),
        "gate.weight": normal(40, 16, seed=1, scale=0.3),
        "down.weight": normal(16, 40, scale=0.3),
    }


def make_encoder(tmp_path: Path, of: Format, tensors: dict[str, Array]) -> SmallPlan:
    if of is not Format.U8:
        return SmallPlan(tmp_path, tensors, encoder, of, positions=200)
    narrow, wide = window(16), window(40)
    windows = {
        name: wide if name == "down" else narrow for name in ("q", "k", "v", "o", "up", "gate", "down")
    }
    return SmallPlan(tmp_path, tensors, encoder, Format.F32, windows=windows, positions=200)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("of", FORMATS)
def test_a_vector_that_is_no_number_harms_its_own_texts_alone(
    tmp_path: Path, of: Format, harm: float
) -> None:
    tensors = weights_of_encoder()
    texts = [text(length, 1) for length in (1, 5, 16, 17, 70, 200)]
    alone = make_encoder(tmp_path, of, tensors).run(texts)
    assert np.isfinite(alone).all()
    tensors["table.weight"] = np.vstack([tensors["table.weight"], np.full((1, 16), 0.5, np.float32)])
    tensors["table.weight"][90, 3] = harm
    plan = make_encoder(tmp_path, of, tensors)
    for harmed in ([90], [90, *text(20)], [*text(63), 90], [*text(80), 90, *text(80)]):
        together = plan.run([each for one in texts for each in (harmed, one)])
        assert not np.isfinite(together[::2]).all(axis=1).any()
        assert together[1::2].tobytes() == alone.tobytes()


@pytest.mark.parametrize("of", WIDE)
@pytest.mark.parametrize("name", weights_of_encoder())
def test_a_weight_that_is_no_number_is_never_made_one(tmp_path: Path, name: str, of: Format) -> None:
    tensors = weights_of_encoder()
    tensors[name].flat[5] = np.nan
    rows = make_encoder(tmp_path, of, tensors).run([[*text(length, 2), 0] for length in (4, 17, 90)])
    assert not np.isfinite(rows).all(axis=1).any()


@pytest.mark.parametrize("kind", ERRORS)
def test_an_activation_of_no_number_is_none(tmp_path: Path, kind: Any) -> None:
    table = of_points(np.array([np.nan, np.inf, -np.inf, 1.0], np.float32))
    plan = SmallPlan(tmp_path, {"table.weight": table}, lambda ops: ops.activation(kind, look_up(ops)))
    (row,) = plan.run([[0]])
    assert np.isnan(row[0])
    assert row[1] == (1 if kind == "tanh" else np.inf)
    assert row[2] == {"tanh": -1, "relu": 0}[kind] if kind in ("tanh", "relu") else not row[2] > 0
    assert np.isfinite(row[3])


@pytest.mark.parametrize(
    "pooling", [each for each in Pooling if each not in (Pooling.CLS, Pooling.LAST_TOKEN)]
)
@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("place", [0, 3, 9])
def test_a_pooling_keeps_what_is_no_number(tmp_path: Path, pooling: Pooling, harm: float, place: int) -> None:
    table = normal(12, 24)
    table[11, 3] = harm
    plan = SmallPlan(tmp_path, {"table.weight": table}, lambda ops: ops.pool(look_up(ops), pooling))
    ids = [*range(10)]
    ids[place] = 11
    (row,) = plan.run([ids])
    assert np.isfinite(np.delete(row, 3)).all()
    if pooling is Pooling.MAX and harm == -np.inf:
        assert np.isfinite(row[3])
        assert plan.run([[11]])[0, 3] == -np.inf
    else:
        assert not np.isfinite(row[3])


@pytest.mark.parametrize("of", FORMATS)
def test_texts_have_the_same_bits_at_every_place_of_every_batch(tmp_path: Path, of: Format) -> None:
    plan = make_encoder(tmp_path, of, weights_of_encoder())
    texts = [text(length) for length in (*range(1, 20), 63, 64, 65, 100, 191, 192, 193, 200)]
    alone = np.concatenate([plan.run([each]) for each in texts])
    rng = np.random.default_rng(0)
    for size in (2, 3, 7, len(texts), 60):
        chosen = rng.integers(0, len(texts), size)
        assert plan.run([texts[index] for index in chosen]).tobytes() == alone[chosen].tobytes()
