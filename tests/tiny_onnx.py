"""Writes small ONNX files byte by byte, as exporters lay them out: a table of vectors, looked up by token.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FLOAT, INT64 = 1, 7
INPUTS = ("input_ids", "attention_mask")


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def text(field: int, value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def tensor(name: str, values: NDArray[np.float32], external: str = "") -> bytes:
    """A TensorProto, its numbers in the file or in another one."""
    head = b"".join(number(1, size) for size in values.shape) + number(2, FLOAT) + text(8, name)
    if not external:
        return head + text(9, values.tobytes())
    return head + text(13, text(1, "location") + text(2, external)) + number(14, 1)


def value(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    """A ValueInfoProto; a string is a size that varies."""
    sizes = b"".join(text(1, text(2, size) if isinstance(size, str) else number(1, size)) for size in shape)
    return text(1, name) + text(2, text(1, number(1, kind) + text(2, sizes)))


def node(
    kind: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    domain: str = "",
    **attributes: int | Sequence[int],
) -> bytes:
    """A NodeProto; its attributes are whole numbers or lists of them."""
    names = b"".join(text(1, name) for name in inputs) + b"".join(text(2, name) for name in outputs)
    given = b"".join(text(5, attribute(name, value)) for name, value in attributes.items())
    return names + text(4, kind) + text(7, domain) + given


def attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return text(1, name) + number(3, value) + number(20, 2)
    return text(1, name) + b"".join(number(8, each) for each in value) + number(20, 7)


def model(
    nodes: Sequence[bytes], tensors: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]
) -> bytes:
    """A ModelProto of opset 17."""
    parts = ((1, nodes), (5, tensors), (11, inputs), (12, outputs))
    graph = text(2, "tiny") + b"".join(text(field, each) for field, group in parts for each in group)
    return number(1, 8) + text(8, number(2, 17)) + text(7, graph)


def lookup(
    path: Path,
    table: NDArray[np.float32],
    *,
    output: str = "last_hidden_state",
    inputs: Sequence[str] = INPUTS,
    sizes: tuple[int | str, int | str] = ("batch", "sequence"),
    external: str = "",
    then: Sequence[bytes] = (),
    result: str = "tokens",
    rank: int = 3,
) -> Path:
    """Write a graph that gives each token its row of the table, [B, L, hidden], and goes on with the nodes `then`."""
    nodes = [node("Gather", ["table", "input_ids"], ["tokens"]), *then, node("Identity", [result], [output])]
    given = [value(name, INT64, sizes) for name in inputs]
    shape = (*sizes, table.shape[1])[-rank:] if rank == 3 else (sizes[0], table.shape[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model(nodes, [tensor("table", table, external)], given, [value(output, FLOAT, shape)]))
    return path
