"""Serving opens no connection, writes nothing outside its own folders, and loads neither telemetry nor PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server import Server, environment

RECORDER = """
import atexit, json, os, sys
seen = []
def record(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        seen.append([event, repr(args[1:] if event != "socket.getaddrinfo" else args)])
    elif event == "open" and isinstance(args[0], str) and args[1] and set(args[1]) & set("wax+"):
        seen.append([event, args[0]])
sys.addaudithook(record)
def report():
    modules = sorted(sys.modules)
    with os.fdopen(os.dup(REPORT), "w") as out:
        out.write(json.dumps({"events": list(seen), "modules": modules}) + "\\n")
REPORT = int(os.environ["REPORT_FD"])
atexit.register(report)
"""
HEAVY = ("torch", "transformers", "sentence_transformers", "onnxruntime", "tensorflow")


def watched(code: list[str], home: Path, tmp_path: Path) -> dict[str, list[str]]:
    """Run Python with every connection, name look-up and written file recorded, in a new HOME, without CI."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(RECORDER)
    report = tmp_path / "report"  # no pipe: it holds 64 KiB, and nobody reads it before the process ends
    variables = {name: value for name, value in environment(home).items() if name != "CI"}
    with report.open("wb") as writing:
        variables |= {
            "HOME": str(home),
            "PYTHONPATH": str(tmp_path / "site"),
            "REPORT_FD": str(writing.fileno()),
        }
        done = subprocess.run(
            [sys.executable, *code],
            env=variables,
            pass_fds=(writing.fileno(),),
            capture_output=True,
            text=True,
            timeout=120,
        )
    lines = report.read_text().splitlines()
    assert done.returncode == 0, done.stderr
    # A process that the first one started would have reported too.
    assert len(lines) == 1
    return json.loads(lines[0])  # type: ignore[no-any-return]


def test_importing_the_engine_touches_neither_network_nor_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    seen = watched(["-c", "import senryu.engine.openvino"], home, tmp_path)
    assert seen["events"] == []
    assert list(home.iterdir()) == []
    assert "openvino" in seen["modules"]
    assert [name for name in seen["modules"] if "telemetry" in name] == []


SERVE = """
import json, os, signal, sys, threading, urllib.request
from pathlib import Path
from senryu.cli import main
def call(home):
    variables = {}
    while "EMBEDDING_KEY" not in variables or "EMBEDDING_URL" not in variables:
        try: variables = json.loads(Path(home, "config-vars.json").read_text())["default"]
        except (OSError, KeyError, ValueError): pass
    request = urllib.request.Request(
        variables["EMBEDDING_URL"] + "/v1/embeddings",
        json.dumps({"model": variables["EMBEDDING_MODEL_ID"], "input": ["old pond", "frog"]}).encode(),
        {"authorization": "Bearer " + variables["EMBEDDING_KEY"]})
    while True:
        try: urllib.request.urlopen(request).read(); break
        except urllib.error.URLError: pass
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=call, args=(sys.argv[1],)).start()
sys.argv[1:] = ["serve", "--port", "0", "--model", sys.argv[2]]
main()
"""


def test_serving_opens_no_connection_and_writes_only_its_state(tiny_folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    seen = watched(["-c", SERVE, str(home), str(tiny_folder)], home, tmp_path)
    outside = [
        [event, what]
        for event, what in seen["events"]
        if not (event == "open" and (what.startswith(str(home)) or what == "/dev/null"))
        and "127.0.0.1" not in what  # the test's own client, and the address to listen on
    ]
    assert outside == []
    names = {name.split(".")[0] for name in seen["modules"]}
    assert names.isdisjoint(HEAVY)
    assert [
        name for name in seen["modules"] if "telemetry" in name or name.startswith("openvino.tools.")
    ] in (
        [],
        ["openvino.tools.ovc"],  # the None that keeps it out
    )
    kept = {path.name for path in home.iterdir()}
    assert kept <= {
        "senryu.db",
        "senryu.db-wal",
        "senryu.db-shm",
        "config-vars.json",
        "provision.lock",
        "config-vars.json.lock",
    }


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="sockets are read from /proc")
def test_a_running_server_has_no_socket_but_its_own(tiny_server: Server) -> None:
    tiny_server.post({"model": tiny_server.model_id, "input": "old pond"})
    pid = tiny_server.process.pid
    inodes = {
        os.readlink(entry).removeprefix("socket:[").rstrip("]")
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if os.path.islink(entry) and os.readlink(entry).startswith("socket:")
    }
    port = f"{int(tiny_server.url.rsplit(':', 1)[1]):04X}"
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                assert fields[1].endswith(port), line


def test_a_cold_help_is_quick_because_it_imports_little(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    seen = watched(["-m", "senryu", "--help"], home, tmp_path)
    names = {name.split(".")[0] for name in seen["modules"]}
    assert names.isdisjoint({"numpy", "openvino", "sqlalchemy", "starlette", "uvicorn", "tokenizers", "rich"})
