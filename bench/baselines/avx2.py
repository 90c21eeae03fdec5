"""A machine without AVX-512: what hides it from each server, also from those that ask the processor themselves.

PyTorch, oneDNN and MKL can be told. OpenVINO and ONNX Runtime ask CPUID: of their libraries a copy is made in which an
undefined instruction stands in its place, and hide_avx512.c answers the signal as the processor would, without what is
newer than AVX2. Knows files and instructions; not what is served.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from baselines.install import FOLDER, HERE, Unavailable

TOLD = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
ASKING = ("openvino/libs/libopenvino*.so*", "onnxruntime/capi/onnxruntime_pybind11_state*.so")
CPUID, UNDEFINED = b"\x0f\xa2", b"\x0f\x0b"


def environment() -> dict[str, str]:
    """Return the variables that hide AVX-512, after compiling what answers. Raises Unavailable."""
    return TOLD | {"LD_PRELOAD": str(_handler())}


def copy_of(python: Path) -> Path:
    """Return the Python of a copy of an environment, whose libraries ask the handler. Raises Unavailable."""
    original = python.parents[1]
    folder = original.with_name(f"{original.name}-avx2")
    stamp, wanted = folder / "stamp-avx2", (original / "stamp").read_text("utf-8")
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original, folder, symlinks=True, copy_function=os.link)
        for pattern in ASKING:
            for path in folder.glob(f"lib/python3*/site-packages/{pattern}"):
                _replace(path)
        stamp.write_text(wanted, "utf-8")
    return folder / "bin" / python.name


def _handler() -> Path:
    library = FOLDER / "hide_avx512.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(HERE / "hide_avx512.c")]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"AVX-512 cannot be hidden: {getattr(error, 'stderr', '') or error}") from None
    return library


def _replace(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for address in _cpuids(path):
        at = next(
            offset + address - begin
            for offset, begin, size in _segments(data)
            if begin <= address < begin + size
        )
        assert data[at : at + 2] == CPUID, f"{path.name}: no CPUID at {address:#x}"
        data[at : at + 2] = UNDEFINED
    path.unlink()  # NOTE: a link: the environment that it was copied from keeps its own
    path.write_bytes(data)


def _cpuids(path: Path) -> list[int]:
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(path)]
    try:
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except OSError:
        raise Unavailable("AVX-512 cannot be hidden without objdump: apt install binutils") from None
    return [int(address, 16) for address in re.findall(r"^\s*([0-9a-f]+):\s+cpuid\b", lines, re.MULTILINE)]


def _segments(data: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """Yield offset, address and size of what an ELF file of 64 bits has loaded (System V ABI, chapter 5)."""
    (table,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    for number in range(count):
        kind, offset, address, length = struct.unpack_from("<I4xQQ8xQ", data, table + number * size)
        if kind == 1:
            yield offset, address, length
