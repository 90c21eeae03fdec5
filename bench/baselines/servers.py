"""The servers that are compared: one row each, with its exact command; and a running one, which can be paused.

Knows processes and ports; not what is asked of a server, nor what is measured.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from baselines import avx2, install
from baselines.install import OFFLINE, Unavailable

LLAMA = "llama"  # the environment that is a program
KEY = "inf-a-key-for-benchmarks-alone"
NAME = "all-minilm-l6-v2"


@dataclass(frozen=True, slots=True)
class Server:
    """What is compared. `arguments` may hold {port}, {model} and {home}; `environment` is "" for our own."""

    id: str
    title: str
    environment: str
    arguments: tuple[str, ...]
    packages: tuple[str, ...]
    backend: str = ""  # what the model is exported for
    least_cosine: float = 0.999  # of its vectors with the first server's
    is_in_folder: bool = False  # it runs in the model's folder
    is_capped: bool = False  # AVX-512 is hidden from it

    def folder(self, model: Path) -> Path:
        """Return the model's folder, with what the backend exports into it. Raises Unavailable."""
        return install.exported(self.backend, model) if self.backend in install.EXPORTED else model

    def program(self) -> Path:
        """Return what is run, after installing it. Raises Unavailable."""
        if self.environment == LLAMA:
            return install.llama_server()
        if not self.environment:
            return Path(sys.executable)
        python = install.environment(self.environment)
        return avx2.copy_of(python) if self.is_capped else python

    def versions(self) -> str:
        """Say which versions of its packages are installed."""
        if self.environment == LLAMA:
            return install.llama_version()
        return install.versions(self.program(), self.packages)

    def command(self, model: Path, port: int, home: str) -> list[str]:
        """Return the command line, after installing and exporting what it needs. Raises Unavailable."""
        folder = self.folder(model)
        return [
            str(self.program()),
            *(part.format(port=port, model=folder, home=home) for part in self.arguments),
        ]

    def shown(self) -> str:
        """Return the command as the results show it, without this machine's paths."""
        program = "llama-server" if self.environment == LLAMA else "python"
        return " ".join(
            [program, *(part.format(port="PORT", model="MODEL", home="HOME") for part in self.arguments)]
        )


def _senryu(precision: str) -> Server:
    arguments = ("-m", "senryu", "serve", "--precision", precision, "--port", "{port}", "--model", "{model}")
    least = 0.99 if precision == "int8" else 0.999  # its loss is stated: docs/int8.md
    packages = ("senryu", "openvino")
    return Server(f"senryu-{precision}", f"Senryu {precision}", "", arguments, packages, "", least)


def _infinity(id_: str, title: str, *options: str, engine: str = "torch", model: str = "{model}") -> Server:
    arguments = (
        *("-m", "infinity_emb.cli", "v2", "--model-id", model),
        *("--served-model-name", NAME, "--engine", engine, "--device", "cpu", "--host", "127.0.0.1"),
        *("--port", "{port}", "--url-prefix", "/v1", "--log-level", "warning", *options),
    )
    packages = ("infinity-emb", "torch", "sentence-transformers", "transformers")
    return Server(id_, title, "infinity", arguments, packages)


def _infinity_onnx() -> Server:
    # NOTE: it finds a graph that is named by its folder only from within.
    options = ("--pooling-method", "mean")
    title = "infinity-emb, `--engine optimum` (ONNX)"
    torch = _infinity("infinity-onnx", title, *options, engine="optimum", model=".")
    packages = ("infinity-emb", "onnxruntime", "optimum", "optimum-onnx")
    return replace(torch, environment="infinity-onnx", packages=packages, backend="onnx", is_in_folder=True)


def _llama(of: str) -> Server:
    arguments = (
        *("-m", f"{{model}}/{of}.gguf", "--embeddings", "--pooling", "mean", "--alias", NAME),
        *("--parallel", "32", "-c", "16384", "-b", "2048", "-ub", "2048", "--log-disable"),
        *("--host", "127.0.0.1", "--port", "{port}", "--api-key", KEY),
    )
    least = 0.99 if of == "q8_0" else 0.999
    return Server(f"llama-{of}", f"llama.cpp, {of}", LLAMA, arguments, (), f"gguf-{of}", least)


def _minimal(id_: str, title: str, backend: str, precision: str, *packages: str) -> Server:
    arguments = (
        *("-m", "baselines.serve", "--backend", backend, "--precision", precision),
        *("--model", "{model}", "--port", "{port}"),
    )
    return Server(id_, title, "minimal", arguments, packages, backend)


_ST = "sentence-transformers"
SERVERS = (
    _senryu("bf16"),
    _senryu("f32"),
    _senryu("int8"),
    _infinity("infinity", "infinity-emb, default (torch)"),
    _infinity("infinity-bf16", "infinity-emb, torch, `--dtype bfloat16`", "--dtype", "bfloat16"),
    _infinity_onnx(),
    _minimal("st-torch", f"{_ST}, PyTorch f32", "torch", "f32", _ST, "torch", "transformers"),
    _minimal(
        "st-openvino-bf16", f"{_ST}, OpenVINO bf16", "openvino", "bf16", _ST, "openvino", "optimum-intel"
    ),
    _minimal("st-openvino-f32", f"{_ST}, OpenVINO f32", "openvino", "f32", _ST, "openvino", "optimum-intel"),
    _minimal(
        "onnx",
        "ONNX Runtime f32, first come first served, padded to the longest",
        "onnx",
        "f32",
        "onnxruntime",
        "tokenizers",
    ),
    _llama("f32"),
    _llama("q8_0"),
)


def _capped(server: Server) -> Server:
    capped = replace(server, is_capped=True)
    if server.environment:
        return capped
    return replace(capped, arguments=("-m", "baselines.older", *server.arguments[2:]))


# Without AVX-512 no server here has bf16. llama.cpp is compiled for this very processor.
AVX2_SERVERS = tuple(
    _capped(server) for server in SERVERS if "bf16" not in server.id and server.environment != LLAMA
)


@dataclass(slots=True)
class Running:
    """A server that was started: its address, and its process group."""

    server: Server
    url: str
    process: subprocess.Popen[bytes]
    home: tempfile.TemporaryDirectory[str]
    log: Path
    start_seconds: float = 0

    def pause(self) -> None:
        """Stop the processes where they are, so that an idle server takes nothing from the one under load."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def resident_mb(self) -> float:
        """Return the resident memory of the server's process in MB, 0 where the system does not tell."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        except OSError:
            return 0
        return next(
            (int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0
        )

    def close(self) -> None:
        """End the server and everything that it started."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()
        self.home.cleanup()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return


def start(server: Server, model: Path, extra: Mapping[str, str], seconds: float = 180) -> Running:
    """Start a server and wait for its first answer. Raises Unavailable, with the end of its log."""
    home = tempfile.TemporaryDirectory(prefix="senryu-bench-")
    port = _free_port()
    try:
        command = server.command(model, port, home.name)
    except Unavailable:
        home.cleanup()
        raise
    log = Path(home.name) / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=server.folder(model) if server.is_in_folder else install.ROOT,
            env={**os.environ, **_environment(server, home.name), **extra},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    running = Running(server, f"http://127.0.0.1:{port}", process, home, log)
    began = time.perf_counter()
    try:
        _wait(running, seconds)
    except BaseException:
        running.close()
        raise
    running.start_seconds = time.perf_counter() - began
    return running


def ask(url: str, texts: Sequence[str]) -> list[list[float]]:
    """Return the vectors of some texts, as floats in JSON. Raises Unavailable if the answer is another."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=120)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/embeddings", json.dumps({"model": NAME, "input": texts}), headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200:
        raise Unavailable(f"answers {response.status}: {body[:200].decode(errors='replace')}")
    answer: dict[str, Any] = json.loads(body)
    return [item["embedding"] for item in answer["data"]]


def _wait(running: Running, seconds: float) -> None:
    until = time.perf_counter() + seconds
    while running.process.poll() is None and time.perf_counter() < until:
        try:
            ask(running.url, ["ready?"])
        except (OSError, http.client.HTTPException, Unavailable):
            time.sleep(0.05)
        else:
            return
    lines = running.log.read_text("utf-8", "replace").strip().splitlines()
    raise Unavailable(f"did not start: {lines[-1][:300] if lines else 'no output'}")


def _environment(server: Server, home: str) -> dict[str, str]:
    here = {"PYTHONPATH": str(install.HERE.parent)}
    if not server.environment:
        # NOTE: this checkout's Senryu, whichever one the environment was made for.
        here["PYTHONPATH"] += f"{os.pathsep}{install.ROOT / 'src'}"
        return here | {"SENRYU_HOME": home, "SENRYU_KEY": KEY, "SENRYU_LOG_LEVEL": "warning"}
    return OFFLINE | here | (avx2.environment() if server.is_capped else {})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
