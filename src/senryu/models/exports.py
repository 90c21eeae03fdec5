"""The ready-made graph that a model's repository ships: which file it is, and which files it is made of.

Knows names and where ONNX keeps the names of its data files; reading the graph is an engine's.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from senryu.errors import ModelError
from senryu.models.entries import stays_inside

# The first that a folder has is taken: sentence-transformers' and Optimum's places. OpenVINO's own format loads faster.
EXPORTS = ("openvino/openvino_model.xml", "openvino_model.xml", "onnx/model.onnx", "model.onnx")

# onnx.proto: TensorProto.external_data is a list of key and value; the key "location" has field 1, its value field 2.
_LOCATION = b"\n\x08location\x12"


def find_export(folder: Path) -> str | None:
    """Return the path of the folder's exported graph, relative to it; None where it has none."""
    return next((path for path in EXPORTS if (folder / path).is_file()), None)


def export_files(folder: Path, export: str) -> tuple[str, ...]:
    """Return the graph and the files that hold its weights, relative to the folder.

    Raises ModelError if one is missing or outside the folder of the graph.
    """
    path = folder / export
    data = _external_data(path) if path.suffix == ".onnx" else {path.with_suffix(".bin").name}
    parent = Path(export).parent
    for name in sorted(data):
        if not stays_inside(name):
            raise ModelError(f"{path}: its weights are in {name!r}, outside the folder.")
        if not (path.parent / name).is_file():
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
        begin = at + len(_LOCATION) + 1
        name = content[begin : begin + content[begin - 1]]
        if name.isascii() and name.decode("ascii", "replace").isprintable():  # else chance bytes of a tensor
            yield name.decode("ascii")
        at = content.find(_LOCATION, begin)
