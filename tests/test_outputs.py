"""The bit conventions, against the published vector and against an independent few lines."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from senryu import outputs
from senryu.pipeline import INLINE_VECTORS, encode
from senryu.types import OutputType

# Published output of a real service at 1,024 dimensions, its first five.
PUBLISHED = np.array([-0.041931152, -0.022384644, -0.07067871, -0.011886597, -0.019210815], np.float32)
PUBLISHED_INT8 = [-54, -29, -90, -16, -25]


def unit_row(dimensions: int = 1024) -> np.ndarray:
    """The published five, two negatives, a positive, then zeros: no further normalisation is applied to it."""
    row = np.zeros((1, dimensions), np.float32)
    row[0, :5] = PUBLISHED
    row[0, 5:8] = [-0.01, -0.02, 0.03]
    return row


def test_int8_reproduces_the_published_codes() -> None:
    assert outputs.to_int8(unit_row())[0, :5].tolist() == PUBLISHED_INT8


def test_uint8_is_int8_plus_128() -> None:
    assert outputs.to_uint8(unit_row())[0, :5].tolist() == [code + 128 for code in PUBLISHED_INT8]


def test_the_first_dimension_is_the_highest_bit_and_binary_is_offset() -> None:
    assert outputs.to_ubinary(unit_row())[0, 0] == 1
    assert outputs.to_binary(unit_row())[0, 0] == -127


def test_k_at_1024_dimensions_is_1270() -> None:
    # 1 · k is far above the clip, so k shows in the smallest x that reaches each code.
    for code in (1, 5, 90, 126):
        row = np.zeros((1, 1024), np.float32)
        row[0, 0] = np.nextafter(np.float32(code / 1270), np.float32(1))
        row[0, 1] = np.float32(code / 1270 * 0.999)
        assert outputs.to_int8(row)[0, :2].tolist() == [code, code - 1]


def test_int8_clips() -> None:
    assert outputs.to_int8(np.array([[1.0, -1.0]] * 1, np.float32).repeat(512, axis=1))[
        0, [0, -1]
    ].tolist() == [127, -128]


@pytest.mark.parametrize("dimensions", [8, 384, 1000, 1024])
def test_every_type_equals_an_independent_computation(dimensions: int) -> None:
    vectors = np.random.default_rng(dimensions).standard_normal((200, dimensions)).astype(np.float32)
    answer = outputs.encode(vectors, None, tuple(OutputType))
    k = np.float32(127 * math.sqrt(dimensions) / 3.2)
    for row, vector in enumerate(answer[OutputType.FLOAT]):
        codes = [max(-128, min(127, math.floor(np.float32(x) * k))) for x in vector]
        bits = "".join("1" if x > 0 else "0" for x in vector)
        packed = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, dimensions, 8)]
        assert answer[OutputType.INT8][row].tolist() == codes
        assert answer[OutputType.UINT8][row].tolist() == [code + 128 for code in codes]
        assert answer[OutputType.UBINARY][row].tolist() == packed
        assert answer[OutputType.BINARY][row].tolist() == [byte - 128 for byte in packed]


def test_dimensions_are_cut_before_normalising() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    cut = outputs.encode(vectors, 8, [OutputType.FLOAT])[OutputType.FLOAT]
    expected = vectors[:, :8] / np.linalg.norm(vectors[:, :8].astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-7)


def test_a_rows_bits_do_not_depend_on_the_other_rows() -> None:
    vectors = np.random.default_rng(1).standard_normal((97, 384)).astype(np.float32)
    together = outputs.encode(vectors, None, tuple(OutputType))
    for row in range(97):
        alone = outputs.encode(vectors[row : row + 1], None, tuple(OutputType))
        for output_type in OutputType:
            assert alone[output_type].tobytes() == together[output_type][row].tobytes()


def test_a_row_of_zeros_stays_finite() -> None:
    assert outputs.normalise(np.zeros((1, 8), np.float32)).tolist() == [[0.0] * 8]


@pytest.mark.parametrize("dimensions", [8, 100, 384, 1000])
def test_a_row_has_the_same_bits_whatever_is_normalised_beside_it(dimensions: int) -> None:
    vectors = np.random.default_rng(dimensions).standard_normal((64, dimensions)).astype(np.float32)
    together = outputs.normalise(vectors)
    for row, vector in enumerate(vectors):
        assert np.array_equal(outputs.normalise(vector[None])[0], together[row])
        assert np.array_equal(outputs.normalise(vectors[row : row + 7])[0], together[row])


@pytest.mark.parametrize("rows", [1, INLINE_VECTORS + 1])
@pytest.mark.parametrize("dimensions", [None, 384, 100])
def test_a_request_codes_rows_of_length_1_and_normalises_only_what_it_cuts(
    rows: int, dimensions: int | None
) -> None:
    unit = outputs.normalise(np.random.default_rng(1).standard_normal((rows, 384)).astype(np.float32))
    unit[0, 1] += 1  # so that normalising would show
    answer = asyncio.run(encode(unit, dimensions, tuple(OutputType)))
    expected = outputs.normalise(unit[:, :100]) if dimensions == 100 else unit
    assert np.array_equal(answer[OutputType.FLOAT], expected)
    assert np.array_equal(answer[OutputType.INT8], outputs.to_int8(expected))
