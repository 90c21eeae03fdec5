"""The ready-made graph that a model's repository ships: which file it is, and which files it is made of.

Knows names and where ONNX keeps the names of its data files; reading the graph is an engine's.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from senryu.errors import ModelError
from senryu.models.entries import stays_inside

# The first that a folder has is taken: sentence-transformers' and Optimum's places. OpenVINO's own format loads faster.
EXPORTS = ("openvino/openvino_model.xml", "openvino_model.xml", "onnx/model.onnx", "model.onnx")

# onnx.proto: TensorProto.external_data is a list of key and value; the key "location" has field 1, its value field 2.
_LOCATION = b"\n\x08location\x12"
_VARINT_BYTES = 5  # at most, for a length


def find_export(folder: Path) -> str | None:
    """Return the path of the folder's exported graph, relative to it; None where it has none."""
    return next((path for path in EXPORTS if (folder / path).is_file()), None)


def export_files(folder: Path, export: str) -> tuple[str, ...]:
    """Return the graph and the files that hold its weights, relative to the folder.

    Raises ModelError if one is missing or outside the folder of the graph, or if its name cannot be read.
    """
    path = folder / export
    data = _external_data(path) if path.suffix == ".onnx" else {path.with_suffix(".bin").name}
    parent = Path(export).parent
    for name in sorted(data):
        if not stays_inside(name) or not name.isprintable():
            raise ModelError(f"{path}: its weights are in {name!r}, outside the folder or no file's name.")
        if not os.path.isfile(path.parent / name):  # NOTE: Path.is_file raises for a name that is too long
            raise ModelError(f"{path.parent / name}: is missing; {path.name} keeps its weights there.")
    return (export, *((parent / name).as_posix() for name in sorted(data)))


def _external_data(path: Path) -> set[str]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return set(_locations(content))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}.") from None


def _locations(content: mmap.mmap) -> Iterator[str]:
    at = content.find(_LOCATION)
    while at >= 0:
        at += len(_LOCATION)
        yield _text(content, at).decode("utf-8")
        at = content.find(_LOCATION, at)


def _text(content: mmap.mmap, at: int) -> bytes:
    """Return the text behind its length, a varint: 7 bits a byte, the lowest first, the last byte below 128."""
    length = 0
    for index, byte in enumerate(content[at : at + _VARINT_BYTES]):
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            begin = at + index + 1
            if begin + length <= len(content):
                return content[begin : begin + length]
            break
    raise ValueError("it ends within the name of a file of its weights")
