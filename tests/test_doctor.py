"""`senryu doctor`: a good installation passes, and each thing that can be wrong is named with its mend."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from command import StandServer, run, shown
from senryu import config_vars, models
from senryu.cli.doctor.machine import ENGINES
from senryu.config import Paths, Settings
from senryu.engine import choose_engine, choose_precision, kernels
from senryu.engine.machine import usable_threads
from senryu.models import load_spec
from senryu.store import Store, digest
from senryu.types import Key, Resource
from server import Server
from test_models import entry_of
from tiny import make_model

Checks = dict[str, list[dict[str, Any]]]


def examined(*argv: str, code: int | None = None) -> Checks:
    """Run the command; returns what each check found, after holding its exit status to that."""
    result = run("doctor", "--json", *argv)
    answer = json.loads(result.stdout)
    wrong = [each for each in answer["checks"] if each["state"] == "wrong"]
    assert answer["ok"] is (not wrong)
    assert result.exit_code == (1 if wrong else 0)
    assert code is None or result.exit_code == code, result.stdout
    found: Checks = {}
    for each in answer["checks"]:
        found.setdefault(each["check"], []).append(each)
    return found


def states(checks: Checks) -> set[str]:
    return {each["state"] for found in checks.values() for each in found}


@pytest.fixture
def good(paths: Paths, tiny_folder: Path, nobody: str, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """An installation with nothing wrong: a model, EMBEDDING with its key, and a free port."""
    monkeypatch.setenv("SENRYU_MODEL", str(tiny_folder))
    monkeypatch.setenv("SENRYU_PORT", nobody.rpartition(":")[2])
    if not kernels.LIBRARY.exists():
        monkeypatch.setenv("SENRYU_ENGINE", "openvino")
    run("models", "create", str(tiny_folder), "--as", "EMBEDDING")
    return paths


def test_a_good_installation_passes_every_check(good: Paths) -> None:
    checks = examined(code=0)
    assert states(checks) == {"ok"}, checks
    assert checks.keys() == {
        "settings", "versions", "folder", "files", "disk", "processor", "engine", "memory", "model", "database",
        "config vars", "clock", "port",
    }  # fmt: skip
    text = shown("doctor")
    head, *lines = text.splitlines()
    assert head.split() == ["State", "Check", "Found"]
    assert [line.split()[0] for line in lines] == ["ok"] * sum(map(len, checks.values()))


def test_before_the_first_start_nothing_is_wrong_and_nothing_is_made(
    home: Path, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENRYU_PORT", nobody.rpartition(":")[2])
    checks = examined(code=0)
    assert "is not there yet" in checks["database"][0]["found"]
    assert checks["model"][0]["mend"] == "senryu pull all-minilm-l6-v2"
    assert checks["model"][0]["state"] == "warning"
    assert not home.exists()


def test_a_finding_is_one_line_with_its_mend_and_the_status_is_1(good: Paths) -> None:
    good.config_vars.chmod(0o644)
    result = run("doctor")
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("wrong")]
    assert f"others may read {good.config_vars} (mode 0644). To mend it: chmod 600" in line
    assert (result.exit_code, result.stderr) == (1, "senryu: 1 of 13 findings is wrong.\n")


# settings and places


def test_settings_that_cannot_be_read_are_said_and_nothing_else(good: Paths) -> None:
    good.settings_file.write_text("prot = 9000\n")
    checks = examined(code=1)
    assert checks.keys() == {"settings"}
    assert "unknown setting 'prot'" in checks["settings"][0]["found"]


def test_the_settings_that_count_are_named_and_not_told(good: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENRYU_KEY", "a-key-of-more-than-20-characters")
    result = run("doctor")
    assert "SENRYU_KEY" in result.stdout
    assert "a-key-of" not in result.stdout


@pytest.mark.parametrize("name", ["senryu.db", "senryu.db-wal", "config-vars.json", "provision.lock"])
def test_a_file_that_others_may_read_is_wrong(good: Paths, name: str) -> None:
    file = good.data / name
    file.touch(mode=0o600)
    file.chmod(0o640)
    (found,) = examined(code=1)["files"]
    assert f"others may read {file} (mode 0640)" in found["found"]
    assert found["mend"].startswith(f"chmod 600 {file};")


def test_a_settings_file_is_private_only_where_it_holds_a_secret(good: Paths) -> None:
    good.settings_file.write_text("log_level = 'info'\n")
    good.settings_file.chmod(0o644)
    assert states({"files": examined()["files"]}) == {"ok"}
    good.settings_file.write_text("key = 'a-key-of-more-than-20-characters'\n")
    assert "settings.toml (mode 0644)" in examined(code=1)["files"][0]["found"]


def test_a_folder_that_others_may_write_in_is_wrong(good: Paths) -> None:
    good.data.chmod(0o777)
    (found,) = examined(code=1)["folder"]
    assert (found["state"], found["mend"]) == ("wrong", f"chmod go-w {good.data}")


def test_a_home_that_is_a_file_is_wrong(home: Path) -> None:
    home.write_text("")
    (found,) = examined(code=1)["settings"]
    assert f"{home}/settings.toml cannot be read" in found["found"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_wrong(good: Paths) -> None:
    good.data.chmod(0o500)
    (found,) = examined(code=1)["folder"]
    assert "cannot be written" in found["found"]


def test_xdg_folders_are_both_looked_at(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENRYU_HOME")
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    found = [each["found"] for each in examined()["folder"]]
    assert [line.split()[0] for line in found] == [
        str(tmp_path / "XDG_DATA_HOME" / "senryu"),
        str(tmp_path / "XDG_CONFIG_HOME" / "senryu"),
    ]


@pytest.mark.parametrize(("free", "state"), [(10 << 20, "wrong"), (500 << 20, "warning"), (5 << 30, "ok")])
def test_little_room_on_the_disk_is_told(
    good: Paths, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    usage = shutil.disk_usage(good.data)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert [each["state"] for each in examined()["disk"]] == [state]


# the machine


def test_more_threads_than_there_are_is_a_warning(good: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENRYU_THREADS", str(usable_threads() + 1))
    (found,) = examined(code=0)["processor"]
    assert (found["state"], found["mend"]) == (
        "warning",
        "unset threads, or give the server more processors",
    )


def test_a_precision_that_the_processor_lacks_is_wrong(good: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senryu.engine.machine.processor_flags", frozenset)
    monkeypatch.setenv("SENRYU_PRECISION", "bf16")
    (found,) = examined(code=1)["processor"]
    assert "precision 'bf16' is not native" in found["found"]
    assert found["mend"] == "set precision to auto or f32"


def test_what_computes_a_model_is_said(
    good: Paths, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, words in ENGINES.items():
        monkeypatch.setenv("SENRYU_ENGINE", name)
        if name != "native" or kernels.LIBRARY.exists():
            assert examined()["engine"][0]["found"] == f"{tiny_folder.name}: {words}"
    monkeypatch.setenv("SENRYU_ENGINE", "auto")
    chosen = choose_engine(load_spec(tiny_folder), choose_precision("auto"))
    assert examined()["engine"][0]["found"].startswith(f"{tiny_folder.name}: {ENGINES[chosen]}")


@pytest.mark.parametrize(
    ("flags", "engine", "state"),
    [
        ({"avx2", "fma"}, "auto", "warning"),
        ({"avx2", "fma"}, "openvino", "ok"),
        ({"avx2"}, "auto", "ok"),
        ({"avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16"}, "auto", "ok"),
    ],
)
@pytest.mark.parametrize("is_there", [False, True])
def test_kernels_that_are_not_built_are_a_warning_where_the_processor_could_run_them(
    good: Paths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: set[str],
    engine: str,
    state: str,
    is_there: bool,
) -> None:
    monkeypatch.setenv("SENRYU_ENGINE", engine)
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "old.so")
    if is_there:
        kernels.LIBRARY.write_bytes(b"of other sources")
    for module in ("senryu.engine.machine", "senryu.engine.kernels"):
        monkeypatch.setattr(f"{module}.processor_flags", lambda: frozenset(flags))
    (found,) = examined(code=0)["engine"]
    assert (found["state"], "not built" in found["found"]) == (state, state == "warning")
    assert "make serve" in (found["mend"] or "make serve")
    assert ": OpenVINO" in found["found"]


def test_more_memory_than_there_is_is_a_warning(good: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENRYU_MEMORY_MIB", str(1 << 30))
    assert [each["state"] for each in examined(code=0)["memory"]] == ["warning"]


def test_models_that_have_no_room_in_memory_are_wrong(good: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENRYU_MEMORY_MIB", "1")
    (found,) = examined(code=1)["memory"]
    assert "1 of them for models" in found["found"]
    assert found["mend"] == "serve fewer or smaller models, or raise memory_mib"


def test_what_is_not_installed_is_wrong(good: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senryu.cli.version.SHOWN", ("openvino", "a-package-that-is-not-there"))
    (found,) = examined(code=1)["versions"]
    assert found["mend"] == "pip install a-package-that-is-not-there"


def test_a_clock_that_has_gone_back_is_wrong(good: Paths) -> None:
    with sqlite3.connect(good.database) as database:
        later = (datetime.now(UTC) + timedelta(days=2)).replace(tzinfo=None)
        database.execute("UPDATE keys SET created_at = ?", [later.isoformat(" ")])
    database.close()
    (found,) = examined(code=1)["clock"]
    assert "what happened 2 days after that is past" in found["found"]


# models


@pytest.fixture
def pulled(good: Paths, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model of the catalog that was pulled, and that the settings name."""
    folder = make_model(good.models / "tiny-pulled")
    entry = entry_of(folder)
    models.write_manifest(folder, entry, "a test")
    monkeypatch.setattr("senryu.models.entries.catalog", lambda: (entry,))
    monkeypatch.setenv("SENRYU_MODEL", "tiny-pulled")
    return folder


def found_of_models(code: int) -> list[dict[str, Any]]:
    return [each for each in examined(code=code)["model"] if each["found"].startswith("tiny-pulled")]


def test_the_files_of_a_pulled_model_are_hashed(pulled: Path) -> None:
    (found,) = found_of_models(0)
    assert found["found"].endswith("files, each as it was pulled")


def test_a_changed_file_is_found_even_where_size_and_time_are_the_same(pulled: Path) -> None:
    file = pulled / "model.safetensors"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    (found,) = found_of_models(1)
    assert "model.safetensors was changed" in found["found"]
    assert found["mend"] == "senryu pull --force tiny-pulled"


def test_a_missing_file_is_named(pulled: Path) -> None:
    (pulled / "tokenizer.json").unlink()
    (found,) = found_of_models(1)
    assert "tokenizer.json is missing" in found["found"]


@pytest.mark.parametrize(("offline", "state"), [("", "warning"), ("1", "wrong")])
def test_a_model_that_is_not_here_is_wrong_only_where_it_cannot_be_fetched(
    pulled: Path, monkeypatch: pytest.MonkeyPatch, offline: str, state: str
) -> None:
    shutil.rmtree(pulled)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    (found,) = [each for each in examined()["model"] if each["found"].startswith("tiny-pulled")]
    assert found["state"] == state
    assert found["mend"].endswith("senryu pull tiny-pulled")


@pytest.mark.parametrize("model", ["no-such-model", "./no/such/folder"])
def test_a_model_that_is_no_model_is_wrong(good: Paths, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setenv("SENRYU_MODEL", model)
    found = [each for each in examined(code=1)["model"] if each["state"] == "wrong"]
    assert len(found) == 1
    assert repr(model) in found[0]["found"]


def test_a_resource_whose_model_is_not_here_is_a_warning(good: Paths) -> None:
    run("models", "create", "multilingual", "--as", "OTHER")
    (_, found) = examined(code=0)["model"]
    assert (
        found["found"] == "granite-embedding-97m-multilingual-r2 has a resource and is not here to be served"
    )
    assert found["mend"] == "senryu pull granite-embedding-97m-multilingual-r2"


# the database and the config vars


def test_a_damaged_database_is_wrong(good: Paths) -> None:
    good.database.write_bytes(b"no database" * 100)
    (found,) = examined(code=1)["database"]
    assert found["state"] == "wrong"
    assert str(good.database) in found["found"]


def test_a_database_of_a_newer_program_is_wrong(good: Paths) -> None:
    with sqlite3.connect(good.database) as database:
        database.execute("INSERT INTO migrations VALUES (999, 'm999', '2027-01-01 00:00:00')")
    database.close()
    (found,) = examined(code=1)["database"]
    assert "a newer Senryu wrote it" in found["found"]


def test_a_postgresql_is_named_without_its_password(
    good: Paths, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    url = f"postgresql://me:pass-word@{nobody.removeprefix('http://')}/senryu"
    monkeypatch.setenv("SENRYU_DATABASE_URL", url)
    result = run("doctor")
    assert result.exit_code == 1
    assert "pass-word" not in result.output


def test_what_a_postgresql_holds_is_checked(settings: Settings) -> None:
    run("models", "create", "all-minilm-l6-v2", "--as", "EMBEDDING")
    checks = examined()
    assert [each["state"] for each in checks["database"]] == ["ok"]
    assert "1 resource, 1 key, 1 good" in checks["database"][0]["found"]
    assert [each["state"] for each in checks["config vars"]] == ["ok"]


@pytest.fixture
def resource(good: Paths) -> Resource:
    with Store.open(good.database) as store:
        (made,) = store.resources()
    return made


def key_of(paths: Paths) -> Key:
    held = config_vars.read(paths.config_vars, "default")["EMBEDDING_KEY"]
    with Store.open(paths.database) as store:
        return next(key for key in store.keys() if key.digest == digest(held))


def hold_a_key(paths: Paths, resource_ids: list[str] | None, **given: Any) -> None:
    with Store.open(paths.database) as store:
        _, secret = store.create_key(resource_ids, **given)
    config_vars.update(paths.config_vars, "default", {"EMBEDDING_KEY": secret})


def mended(found: dict[str, Any]) -> None:
    """Do what a finding says, and see that it is gone."""
    command, *argv = shlex.split(found["mend"])
    assert command == "senryu"
    assert run(*argv).exit_code == 0
    assert states(examined(code=0)) == {"ok"}


def test_a_config_var_with_a_revoked_key_is_wrong_and_its_mend_mends_it(
    good: Paths, resource: Resource
) -> None:
    key = key_of(good)
    with Store.open(good.database) as store:
        store.revoke_key(key.id)
    (found,) = examined(code=1)["config vars"]
    assert found["found"] == f"EMBEDDING_KEY of app default holds a key that is revoked ({key.id[:8]})"
    assert found["mend"] == f"senryu models attach {resource.name} --as EMBEDDING --app default"
    mended(found)


def test_a_config_var_with_an_expired_key_is_wrong(good: Paths, resource: Resource) -> None:
    hold_a_key(good, [resource.id], expires_at=datetime.now(UTC) - timedelta(seconds=1))
    (found,) = examined(code=1)["config vars"]
    assert "holds a key that is expired" in found["found"]
    mended(found)


def test_a_config_var_with_an_unknown_key_is_wrong(good: Paths) -> None:
    config_vars.update(good.config_vars, "default", {"EMBEDDING_KEY": "inf-of-nobody"})
    result = run("doctor")
    assert "inf-of-nobody" not in result.output
    (found,) = examined(code=1)["config vars"]
    assert "holds a key that the database does not know" in found["found"]
    mended(found)


def test_a_config_var_with_a_key_for_another_resource_is_wrong(
    good: Paths, resource: Resource, tiny_folder: Path
) -> None:
    with Store.open(good.database) as store:
        other = store.create_resource(resource.model_id)
    hold_a_key(good, [other.id])
    (found,) = examined(code=1)["config vars"]
    assert f"holds a key that is not for {resource.name}" in found["found"]
    mended(found)


def test_a_key_that_ends_soon_is_a_warning_and_one_for_every_resource_is_good(
    good: Paths, resource: Resource
) -> None:
    hold_a_key(good, None)
    assert states(examined(code=0)) == {"ok"}
    hold_a_key(good, [resource.id], expires_at=datetime.now(UTC) + timedelta(days=3))
    (found,) = examined(code=0)["config vars"]
    assert (found["state"], "expires in 3 days" in found["found"]) == ("warning", True)


def test_config_vars_that_are_not_there_are_a_warning(good: Paths) -> None:
    good.config_vars.unlink()
    (found,) = examined(code=0)["config vars"]
    assert "has no EMBEDDING_URL and no EMBEDDING_KEY and no EMBEDDING_MODEL_ID" in found["found"]
    mended(found)


def test_a_config_var_of_another_model_is_wrong(good: Paths) -> None:
    config_vars.update(good.config_vars, "default", {"EMBEDDING_MODEL_ID": "another"})
    (found,) = examined(code=1)["config vars"]
    assert "EMBEDDING_MODEL_ID of app default is another" in found["found"]
    mended(found)


def test_a_key_that_belongs_to_nothing_is_a_warning(good: Paths) -> None:
    config_vars.update(good.config_vars, "shop", {"SEARCH_KEY": "inf-of-nobody"})
    (found,) = examined(code=0)["config vars"]
    assert "SEARCH_KEY of app shop belongs to no attachment" in found["found"]


def test_damaged_config_vars_are_wrong(good: Paths) -> None:
    good.config_vars.write_text("{")
    (found,) = examined(code=1)["config vars"]
    assert "are damaged" in found["found"]


@pytest.mark.parametrize("ended", ["revoked", "expired"])
def test_a_given_key_with_which_no_start_succeeds_is_wrong(
    good: Paths, monkeypatch: pytest.MonkeyPatch, ended: str
) -> None:
    secret = "a-key-of-more-than-20-characters"
    past = datetime.now(UTC) - timedelta(seconds=1) if ended == "expired" else None
    with Store.open(good.database) as store:
        key, _ = store.create_key(None, secret=secret, expires_at=past)
        if ended == "revoked":
            store.revoke_key(key.id)
    monkeypatch.setenv("SENRYU_KEY", secret)
    (found,) = examined(code=1)["SENRYU_KEY"]
    assert f"that key is {ended}" in found["found"]
    monkeypatch.setenv("SENRYU_KEY", "another-key-of-more-than-20")
    assert examined(code=0)["SENRYU_KEY"][0]["state"] == "ok"


# the port and the server


def test_a_running_server_is_found_ready(
    tiny_server: Server, tiny_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENRYU_HOME", str(tiny_server.home))
    monkeypatch.setenv("SENRYU_MODEL", str(tiny_folder))
    monkeypatch.setenv("SENRYU_PORT", tiny_server.url.rpartition(":")[2])
    checks = examined(code=0)
    assert checks["server"] == [
        {"check": "server", "state": "ok", "found": f"{tiny_server.url} answers, and is ready", "mend": None}
    ]
    assert "port" not in checks


def test_a_port_that_a_silent_program_holds_is_wrong(good: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senryu.cli.doctor.serving.ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("SENRYU_PORT", str(silent.getsockname()[1]))
        found = examined(code=1)["server"][0]
    assert "does not answer as a server does (timed out)" in found["found"]


def test_a_port_that_is_taken_and_not_listened_on_is_wrong(
    good: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("SENRYU_PORT", str(taken.getsockname()[1]))
        (found,) = examined(code=1)["port"]
    assert "Address already in use" in found["found"]


def test_an_address_that_is_not_this_machines_is_wrong(good: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENRYU_HOST", "host.invalid")
    (found,) = examined(code=1)["port"]
    assert "cannot listen on host.invalid port" in found["found"]


@pytest.mark.parametrize(
    ("status", "content", "says"),
    [
        (200, {"status": "fine"}, "another program answers at"),
        (200, b"<html>", "another program answers at"),
        (404, b"<html>", "another program answers at {url}, with 404"),
        (
            503,
            {"error": {"message": "The server is shutting down."}},
            "answers 503: The server is shutting down",
        ),
    ],
)
def test_what_answers_at_the_port_must_be_a_server_that_is_ready(
    good: Paths, stand: StandServer, monkeypatch: pytest.MonkeyPatch, status: int, content: Any, says: str
) -> None:
    stand.put("/readyz", content, status=status)
    monkeypatch.setenv("SENRYU_PORT", str(stand.server_port))
    found = examined(code=1)["server"][0]
    assert says.format(url=stand.url) in found["found"]


def test_a_server_that_the_config_vars_name_is_asked_too(
    good: Paths, stand: StandServer, nobody: str
) -> None:
    stand.put("/readyz", {"status": "ok"})
    config_vars.update(good.config_vars, "default", {"EMBEDDING_URL": stand.url})
    assert examined(code=0)["server"][0]["found"] == f"{stand.url} answers, and is ready"
    gone = replace_port(nobody)
    config_vars.update(good.config_vars, "default", {"EMBEDDING_URL": gone})
    (found,) = examined(code=0)["server"]
    assert (found["state"], found["found"]) == (
        "warning",
        f"nothing answers at {gone}, which the config vars name",
    )


def replace_port(url: str) -> str:
    """Another address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert taken.getsockname()[1] != int(url.rpartition(":")[2])
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


# the network


def test_no_other_machine_is_asked_unless_that_is_wanted(
    good: Paths, stand: StandServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", stand.url)
    monkeypatch.setenv("http_proxy", stand.url)
    monkeypatch.setenv("no_proxy", "")
    config_vars.update(good.config_vars, "default", {"EMBEDDING_URL": "http://embed.example.com"})
    checks = examined(code=0)
    assert "another machine" in checks["server"][0]["found"]
    assert stand.asked == []
    stand.put("http://embed.example.com/readyz", {"status": "ok"})
    assert (
        examined("--network", code=0)["server"][0]["found"]
        == "http://embed.example.com answers, and is ready"
    )


def test_hugging_face_is_asked_where_that_is_wanted(
    pulled: Path, stand: StandServer, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", stand.url)
    stand.put("/api/models/somebody/Tiny", {"sha": "0" * 40})
    (found,) = examined("--network", code=0)["hugging face"]
    assert "answers for somebody/Tiny" in found["found"]
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    (found,) = examined("--network", code=1)["hugging face"]
    assert "set HF_ENDPOINT to a mirror" in found["mend"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = examined("--network", code=0)["hugging face"]
    assert "never asked" in found["found"]


def test_the_doctor_leaves_what_it_looks_at_as_it_is(good: Paths) -> None:
    def state() -> dict[Path, tuple[int, bytes]]:
        files = [file for file in good.data.iterdir() if file.is_file() and "-" not in file.suffix]
        return {file: (stat.S_IMODE(file.stat().st_mode), file.read_bytes()) for file in files}

    before = state()
    examined(code=0)
    assert state() == before
