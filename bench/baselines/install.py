"""The baselines' environments and model files, under .bench-venv: made once, and again when what they hang on changes.

Knows pip and folders; not what is served. A failure is an Unavailable with its reason, for the results to show.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".bench-venv"
HERE = Path(__file__).resolve().parent

# NOTE: no library may look for anything on the network while it is measured: the model is a local folder, and
# OpenVINO's and infinity's usage reports are off (OpenVINO takes CI for a reason not to send).
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "CI": "true",
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
}


class Unavailable(Exception):
    """Raise when a baseline cannot be had here; the message says why."""


def environment(name: str) -> Path:
    """Return the Python of an environment, installed as requirements-NAME.txt says."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    files = [HERE / f"requirements-{name}.txt"]
    without = HERE / f"requirements-{name}-no-deps.txt"
    extra = [without] if without.exists() else []
    wanted = sys.version + str(folder) + "".join(file.read_text("utf-8") for file in [*files, *extra])
    stamp = folder / "stamp"
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return python
    _see_to_folder()
    print(f"installing .bench-venv/{name}: a few minutes, once", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    _run([*pip, *(part for file in files for part in ("-r", str(file)))])
    for file in extra:
        _run([*pip, "--no-deps", "-r", str(file)])
    stamp.write_text(wanted, "utf-8")
    return python


EXPORTED = ("onnx", "openvino", "gguf-f32", "gguf-q8_0")


def exported(backend: str, model: Path) -> Path:
    """Return a copy of the model's folder with the files that a backend exports into it."""
    folder = FOLDER / "models" / backend
    stamp = folder / "stamp"
    files = ("backends.py", "requirements-minimal.txt", "requirements-llama.txt")
    wanted = "".join((HERE / file).read_text("utf-8") for file in files)
    wanted += str(model.resolve())
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return folder
    python = environment("minimal")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder)
    print(f"exporting the {backend} files", file=sys.stderr)
    command = [str(python), "-m", "baselines.backends", backend, str(folder)]
    if backend.startswith("gguf-"):
        of = backend.removeprefix("gguf-")
        converter = _llama_sources() / "convert_hf_to_gguf.py"
        command = [
            str(python),
            str(converter),
            "--outtype",
            of,
            "--outfile",
            f"{folder}/{of}.gguf",
            str(folder),
        ]
    _run(command, OFFLINE | {"PYTHONPATH": str(HERE.parent)})
    stamp.write_text(wanted, "utf-8")
    return folder


def llama_server() -> Path:
    """Return llama.cpp's server, compiled for this processor."""
    sources = _llama_sources()
    program = sources / "build" / "bin" / "llama-server"
    if program.exists():
        return program
    for tool in ("cmake", "c++"):
        if not shutil.which(tool):
            raise Unavailable(f"llama.cpp needs {tool} to be compiled: apt install cmake g++")
    print("compiling llama.cpp: a quarter of an hour on two processors, once", file=sys.stderr)
    build = ["-B", str(sources / "build"), "-S", str(sources), "-DCMAKE_BUILD_TYPE=Release"]
    without = [f"-DLLAMA_{part}=OFF" for part in ("CURL", "BUILD_TESTS", "BUILD_UI")]
    _run(["cmake", *build, *without, "-DGGML_NATIVE=ON"])
    jobs = str(os.cpu_count() or 1)  # NOTE: without a number make starts all of them at once
    _run(["cmake", "--build", str(sources / "build"), "--target", "llama-server", "--parallel", jobs])
    return program


def _llama_sources() -> Path:
    folder, requirements = FOLDER / "llama", HERE / "requirements-llama.txt"
    stamp, wanted = folder / "stamp", requirements.read_text("utf-8")
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        _see_to_folder()
        shutil.rmtree(folder, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _run([*pip, "--no-binary", ":all:", "--dest", str(folder), "-r", str(requirements)])
        (archive,) = folder.glob("*.tar.gz")
        shutil.unpack_archive(archive, folder)
        stamp.write_text(wanted, "utf-8")
    (sources,) = folder.glob("*/vendor/llama.cpp")
    return sources


def llama_version() -> str:
    """Name the package whose llama.cpp it is."""
    (line,) = re.findall(r"^\S+==\S+", (HERE / "requirements-llama.txt").read_text("utf-8"), re.MULTILINE)
    return f"llama.cpp of {line.replace('==', ' ')}"


def versions(python: Path, packages: Sequence[str]) -> str:
    """Say which versions of packages an environment holds; one that is not installed is left out."""
    code = (
        "import sys, importlib.metadata as m\n"
        "known = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(', '.join(f'{p} {known[p]}' for p in sys.argv[1:] if p in known))"
    )
    found = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _see_to_folder() -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n", "utf-8")


def _run(command: list[str], extra: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env={**os.environ, **(extra or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no message"]
        raise Unavailable(f"{Path(command[0]).name} {' '.join(command[1:4])} failed: {errors[0]}")
