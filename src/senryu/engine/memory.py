"""What a model takes of memory, estimated from its description and the headers of its files before anything is loaded.

Knows how the engines hold weights, and what running needs beside them; docs/models.md has the measurements. What is
mapped from files is not counted: other processes share it, and the kernel takes it back when memory is short.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from senryu.engine import int8
from senryu.engine.kernels import COLUMNS, FORMATS, Format
from senryu.engine.machine import between_products
from senryu.engine.model import Model, PooledOps
from senryu.engine.plan import BLOCK
from senryu.engine.weights import Weights
from senryu.models import ModelSpec, export_files
from senryu.types import Precision

MIB = 1 << 20

BATCH_TOKENS = 1024
# NOTE: as if no text were longer: a stream grows by what it needs for the longest, and most never send one of 32,768.
LONGEST_TEXT = 8192

# Beside the arena: what Python and the C library keep for a thread, and what attention takes where threads share it.
STREAM = 2 * MIB

# OpenVINO: bytes that a number of a linear layer takes as the processor reads it; in int8 its code is kept, too.
PACKED = {Precision.F32: 4, Precision.BF16: 2, Precision.INT8: 2}
OPENVINO_STREAM = 16 * MIB  # for kernels
# Activations that live at once, as many times what the linear layers of one layer give in float32.
ACTIVATIONS = {Precision.F32: 3, Precision.BF16: 2, Precision.INT8: 3}
# Bytes for each pair of a text's tokens: of a mask that tells pairs apart, and of a bias, a head.
MASK = {Precision.F32: 6, Precision.BF16: 4, Precision.INT8: 6}
BIAS = {Precision.F32: 8, Precision.BF16: 6, Precision.INT8: 8}

# Of a graph that is not ours: how often its file's numbers are held, and a layer's outputs by hidden size, BERT's.
COPIES = {".onnx": 2, ".xml": 1}
LIKE_BERT = 9

# Bytes of a tokenizer for each of its file: a Unigram model keeps a tree of its words.
TOKENIZER, UNIGRAM = 12, 20


def of_native(spec: ModelSpec, precision: Precision, streams: int) -> int:
    """Return the bytes that our own kernels take. Raises ModelError for files that cannot be served."""
    noted, weights = _note(spec)
    numbers = FORMATS[between_products(precision)].bytes
    windows = _windows(spec, precision, noted)
    held = _widened_tables(noted, weights) + noted.angles + noted.biases
    for name, outputs, inputs in noted.parts:
        filled = -(-outputs // COLUMNS) * COLUMNS
        held += filled * (inputs * (Format.U8.bytes if name in windows else numbers) + Format.F32.bytes)
    return held + streams * (STREAM + _arena(spec, noted, numbers))


def _windows(spec: ModelSpec, precision: Precision, noted: _Noted) -> set[str]:
    """Return the layers that are quantised; every one, where there is no calibration to say it."""
    if precision is not Precision.INT8:
        return set()
    return set(int8.find(spec).windows if int8.is_calibrated(spec) else noted.linears)


def _arena(spec: ModelSpec, noted: _Noted, numbers: int) -> int:
    """Return the bytes of a stream: what lives from block to block, of every token; a block's own; attention's."""
    longest = min(spec.max_seq_length, LONGEST_TEXT)
    # NOTE: a tensor is stored as wide as it is read: beside that in float32 there may be a sum and a narrow copy.
    hidden = noted.hidden * (4 if numbers == Format.F32.bytes else 4 + 4 + numbers)
    a_token = hidden + noted.attended * numbers
    block = BLOCK * Format.F32.bytes * noted.outputs // max(1, noted.layers)
    return max(longest, BATCH_TOKENS) * a_token + block + longest * noted.head * 2 * numbers


def of_openvino(spec: ModelSpec, precision: Precision, streams: int) -> int:
    """Return the bytes that an encoder of ours takes in OpenVINO. Raises ModelError as `of_native` does."""
    noted, weights = _note(spec)
    held = _widened_tables(noted, weights)
    for name in noted.linears:
        rows, columns = weights.shape(f"{name}.weight")
        held += rows * columns * PACKED[precision]
        held += 0 if precision is Precision.INT8 else weights.widened(f"{name}.weight")
    pair = MASK[precision] * noted.has_mask + BIAS[precision] * noted.bias_heads
    return held + streams * _stream(spec, precision, noted.outputs // max(1, noted.layers), pair)


def of_graph(spec: ModelSpec, export: str, precision: Precision, streams: int) -> int:
    """Return the bytes that an exported graph takes. Raises ModelError if its files cannot be found."""
    size = sum((spec.folder / name).stat().st_size for name in export_files(spec.folder, export))
    stream = _stream(spec, precision, LIKE_BERT * spec.dimensions, 0)
    return COPIES[Path(export).suffix] * size + streams * stream


def of_tokenizer(spec: ModelSpec) -> int:
    """Return the bytes that a model's tokenizer takes."""
    content = (spec.folder / "tokenizer.json").read_bytes()
    return len(content) * (UNIGRAM if b'"Unigram"' in content else TOKENIZER)


def _stream(spec: ModelSpec, precision: Precision, outputs: int, pair: int) -> int:
    longest = min(spec.max_seq_length, LONGEST_TEXT)
    tokens = max(longest, BATCH_TOKENS)
    return OPENVINO_STREAM + 4 * ACTIVATIONS[precision] * tokens * outputs + pair * longest**2


def _widened_tables(noted: _Noted, weights: Weights) -> int:
    """Count tables of half precision, which are kept as float32; others are read where they lie in the file."""
    return sum(weights.widened(name) for name in noted.tables if weights.bf16(name) is None)


def _note(spec: ModelSpec) -> tuple[_Noted, Weights]:
    model = Model(spec)
    noted = _Noted(model.weights, spec.max_seq_length)
    model.vectors(cast("PooledOps[Any]", noted))
    return noted, model.weights


class _Noted:
    """Operations that compute nothing but widths, and note what a model consists of."""

    def __init__(self, weights: Weights, positions: int) -> None:
        self._weights = weights
        self._positions = positions
        self._turns: set[bytes] = set()
        self.parts: list[tuple[str, int, int]] = []  # of linear layers: name, outputs, inputs
        self.tables: set[str] = set()
        self.layers = 0
        self.hidden = 0
        self.head = 0  # the widest
        self.attended = 0  # numbers of a token that attention reads and writes
        self.has_mask = False
        self.bias_heads = 0
        self.angles = 0  # bytes of cosines and sines
        self.biases = 0  # bytes of biases by distance

    @property
    def linears(self) -> dict[str, None]:
        return dict.fromkeys(name for name, _, _ in self.parts)

    @property
    def outputs(self) -> int:
        return sum(outputs for _, outputs, _ in self.parts)

    def __getattr__(self, _: str) -> Callable[..., int]:
        return lambda x=0, *_, **__: x

    def _named(self, _: str, x: int, *__: Any, **___: Any) -> int:
        return x

    layer_norm = rms_norm = activation = _named

    def gather(self, name: str, ids: Any) -> int:
        self.tables.add(f"{name}.weight")
        self.hidden = self._weights.shape(f"{name}.weight")[-1]
        return self.hidden

    def row(self, name: str, index: int) -> int:
        return 0

    def add(self, a: int, b: int) -> int:
        return max(a, b)

    def linear(self, name: str, x: int, *, part: tuple[int, int] = (0, 1), **_: Any) -> int:
        outputs, inputs = self._weights.shape(f"{name}.weight")
        self.parts.append((name, outputs // part[1], inputs))
        return outputs // part[1]

    def rotary(self, x: int, heads: int, frequencies: Any) -> int:
        if frequencies.tobytes() not in self._turns:
            self._turns.add(frequencies.tobytes())
            self.angles += 2 * 4 * self._positions * len(frequencies)
        return x

    def alibi(self, slopes: Any) -> None:
        self._bias(len(slopes))

    def relative_bias(self, name: str, rows: Any, heads: int) -> None:
        self._bias(heads)

    def _bias(self, heads: int) -> None:
        self.bias_heads = heads
        self.biases += 4 * heads * (2 * self._positions + 1)

    def attention(
        self, query: int, key: int, value: int, heads: int, *, causal: bool = False, **given: Any
    ) -> int:
        self.layers += 1
        self.has_mask |= causal or given.get("window") is not None
        self.head = max(self.head, query // heads)
        self.attended = max(self.attended, 2 * query + key + value)
        return query

    def each(self, x: int, compute: Callable[[int], int]) -> int:
        return compute(x)
