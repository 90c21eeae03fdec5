"""What nobody may learn or break: SQL wherever a word can stand, keys and texts in logs, passwords, file modes.

One server at level debug, started under umask 0, on each database; its log is read when all has been tried.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest

from installation import PASSWORD, Installation, is_refused, new_database, status
from local import Local
from senryu.admission import LOOK_SECONDS
from senryu.cli.targets import Known
from senryu.logs import JsonFormatter
from senryu.store import Store
from senryu.types import Batch, Usage, Vectors
from server import Answer, senryu
from test_models import entry_of
from test_pull import WEIGHTS, Hub
from tiny import make_model

TEXT = "the moon over the capital tonight"  # stands in no message and no name of ours
UNKNOWN = "inf-" + "5ec2e7" * 8
SQL = [
    "'; DROP TABLE keys; DROP TABLE senryu.keys; --",
    '" OR 1=1; DELETE FROM usage; --',
    "%s %(id)s :id ? $1 \\'; COMMIT; --",
    "x\n'); UPDATE senryu.keys SET revoked_at = NULL; --",
]
NAMES = ["';DROP/**/TABLE/**/keys;--", '"OR/**/1=1;DELETE/**/FROM/**/senryu.keys;--', "%s%(id)s:id?$1"]


@contextmanager
def umask_0() -> Iterator[None]:
    """Have what is made readable and writable for all, unless it is made otherwise."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def installation(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("security")
    url = new_database(request.param, lambda: request.getfixturevalue("postgres"))
    home = folder / "home"
    with umask_0():
        running = Installation.running(home, [tiny_folder], url, ["--log-level", "debug"])
        with running as made:
            yield made


def tables(installation: Installation) -> tuple[Known, tuple[Usage, ...]]:
    """Read all that the database holds, but for what requests use meanwhile."""
    with Store.open(installation.url or installation.home / "senryu.db") as store:
        return Known.of(store), store.usage(model_id="nothing yet")


# ---- SQL -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", SQL)
def test_sql_is_a_word_in_every_field_and_header(installation: Installation, sql: str) -> None:
    server, before = installation.server, tables(installation)
    for field in ("model", "input_type", "encoding_format", "embedding_type", "dimensions", "truncate", sql):
        assert status(server, server.key, **{field: sql}) in (400, 403)
    assert status(server, server.key, input=sql, user=sql) == 200
    word = sql.replace("\n", " ")
    for header in ("x-request-id", "user-agent", "x-request-timeout", "idempotency-key"):
        body = {"model": server.model_id, "input": "frog"}
        assert server.post(body, headers={header: word}).status in (200, 400)
    assert server.post({}, key=word).status == 401
    for path in ("/models/", "/v1/models/", "/"):
        assert server.get(path + "".join(f"%{byte:02x}" for byte in sql.encode())).status in (401, 403, 404)
    assert tables(installation) == before


@pytest.mark.parametrize("sql", SQL)
def test_sql_is_a_word_in_every_argument(installation: Installation, sql: str) -> None:
    model, before = str(installation.models[0]), tables(installation)
    for argv in (
        ("models", "create", model, "--as", sql),
        ("models", "create", model, "--app", sql),
        ("models", "create", model, "--name", sql),
        ("models", "create", model, "--served-name", sql),
        ("models", "create", sql),
        ("models", "attach", "EMBEDDING", "--as", sql),
        ("models", "attach", sql, "--as", "OTHER"),
        ("models", "detach", sql),
        ("models", "destroy", sql, "--confirm", sql),
        ("models", "info", sql),
        ("models", "call", sql, "--input", sql),
        ("keys", "create", "--model", sql),
        ("keys", "create", "--app", sql, "--model", sql),
        ("keys", "create", "--expires", sql),
        ("keys", "rotate", sql),
        ("keys", "revoke", sql, "--yes"),
        ("usage", "--key", sql),
        ("usage", "--since", sql),
        ("config", sql),
        ("config", "--app", sql),
    ):
        result = installation.run(*argv)
        assert (result.exit_code, result.stdout) in ((1, ""), (2, "")), (argv, result.output)
        assert "Traceback" not in result.stderr
    assert installation.json("usage", "--model", sql)["rows"] == []
    assert tables(installation) == before
    key_id, _ = installation.new_key("--model", "EMBEDDING", "--note", sql)
    made = next(key for key in installation.json("keys", "list") if key["id"] == key_id)
    assert made["note"] == sql


@pytest.mark.parametrize("name", NAMES)
def test_a_resource_whose_name_is_sql_lives_like_any_other(installation: Installation, name: str) -> None:
    model, before = str(installation.models[0]), tables(installation)[0]
    installation.done("models", "create", model, "--as", "ODD", "--name", name, "--served-name", f"{name}2")
    held = installation.variables()["ODD_KEY"]
    for sent in (name, f"{name}2"):
        answer = installation.server.post({"model": sent, "input": "frog"}, key=held)
        assert (answer.status, answer.json()["model"]) == (200, sent)
    installation.done("models", "destroy", name, "--confirm", name)
    assert is_refused(installation.server, held)
    after = tables(installation)[0]
    assert (after.resources, after.attachments) == (before.resources, before.attachments)
    assert len(after.keys) == len(before.keys) + 1


# ---- keys that are refused, and what is logged of all ----------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """A key of each kind."""

    good: str
    expired: str
    revoked: str
    of_another: str
    limited: str


@pytest.fixture(scope="module")
def keys(installation: Installation) -> Keys:
    with Store.open(installation.url or installation.home / "senryu.db") as store:
        another = store.create_resource("another-model")
        _, of_another = store.create_key([another.id])
        _, expired = store.create_key(None, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    revoked_id, revoked = installation.new_key("--all")
    assert status(installation.server, revoked) == 200
    installation.done("keys", "revoke", revoked_id, "--yes")
    assert is_refused(installation.server, revoked)
    _, limited = installation.new_key("--all", "--requests-per-minute", "1")
    return Keys(installation.server.key, expired, revoked, of_another, limited)


def session(installation: Installation, keys: Keys) -> Iterator[tuple[int, Answer]]:
    """Send texts and keys wherever they can be sent; yield the status that is right, and the answer."""
    server = installation.server
    body = {"model": server.model_id, "input": [TEXT]}
    for path in ("/v1/embeddings", "/openai/v1/embeddings"):
        yield 200, server.post(body, path)
    yield 401, server.post(body, key=keys.expired)
    yield 401, server.post(body, key=keys.revoked)
    yield 401, server.post(body, key=UNKNOWN)
    yield 403, server.post(body, key=keys.of_another)
    yield 200, server.post(body, key=keys.limited)
    yield 429, server.post(body, key=keys.limited)
    for query in (f"api_key={keys.good}", f"q={keys.good}", f"token={UNKNOWN}", f"{keys.limited}=1"):
        yield 401, server.post(body, f"/v1/embeddings?{query}")
        yield 401, server.get(f"/models/x?{query}")
    yield 401, server.get(f"/v1/models/{keys.good}")
    for header in (
        keys.good,
        f"Basic {keys.good}",
        f"Bearer {keys.good} {keys.good}",
        f"Bearer {keys.good}, x",
    ):
        yield 401, server.post(body, headers={"Authorization": header}, key=None)
    headers = {"x-request-id": f"my-{keys.good}", "user-agent": f"{TEXT} {keys.good}", "x-api-key": keys.good}
    yield 200, server.post({**body, "user": TEXT}, headers=headers)
    yield 400, server.post({**body, "dimensions": TEXT, keys.good: TEXT})
    yield 400, server.post(json.dumps(body).encode()[:-1] + keys.good.encode())
    yield 403, server.post({**body, "model": f"{TEXT} {keys.good}"})
    yield 400, server.post({**body, "input": [TEXT] * 97})
    yield 431, server.post(body, headers={"x-long": keys.good * 2000})
    yield 404, server.get(f"/nothing/{TEXT.replace(' ', '/')}")
    yield 405, server.get("/v1/embeddings")


def test_each_key_is_answered_as_it_should_be_and_no_key_text_or_password_is_logged(
    installation: Installation, keys: Keys
) -> None:
    for expected, answer in session(installation, keys):
        assert answer.status == expected, answer.body
        if expected == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert not any(key in answer.body.decode() for key in vars(keys).values())
    assert installation.server.get("/livez").status == 200  # what was answered before is logged by then
    log = installation.server.log()
    for route_status in (200, 400, 401, 403, 404, 405, 429):
        assert f'"status":{route_status}' in log
    for secret in (
        *vars(keys).values(),
        UNKNOWN,
        TEXT,
        PASSWORD,
        *(word for word in TEXT.split() if len(word) > 4),
    ):
        assert secret not in log


def test_no_key_and_no_password_is_in_what_commands_say_or_in_the_command_line(
    installation: Installation, keys: Keys
) -> None:
    said = [
        installation.run(*argv).output
        for argv in (
            ("models", "list"), ("models", "info", "EMBEDDING"), ("keys", "list"), ("keys", "list", "--json"),
            ("usage", "--by", "key"), ("usage", "--csv"), ("doctor",), ("doctor", "--json"), ("version",),
            ("keys", "revoke", keys.good), ("keys", "rotate", keys.good), ("serve", "--database-url", "x"),
        )
    ]  # fmt: skip
    command_line = Path(f"/proc/{installation.server.process.pid}/cmdline")
    said += [command_line.read_text()] if command_line.exists() else []
    for secret in (*vars(keys).values(), PASSWORD):
        assert not any(secret in text for text in said)
    assert PASSWORD not in installation.done("config", "--json")


def test_asking_with_wrong_keys_does_not_load_the_database(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Local(tiny_folder, tmp_path / "home") as local:
        revision, reads = local.store.revision, list[int]()
        monkeypatch.setattr(local.store, "revision", lambda: reads.append(1) or revision())
        began = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda n: local.embed(f"{UNKNOWN}{n}", "frog").status, range(100)))
        seconds = time.monotonic() - began
    assert answers == [401] * 100
    assert 1 <= len(reads) <= seconds / LOOK_SECONDS + 1


class BrokenEngine:
    """An engine that repeats what it cannot compute."""

    def __call__(self, batch: Batch) -> Vectors:
        raise RuntimeError(f"cannot compute {batch.input_ids.tolist()}")


def test_a_fault_of_ours_is_logged_with_its_trace_and_without_the_text(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Local(tiny_folder, tmp_path / "home") as local, caplog.at_level(logging.DEBUG):
        key = local.key()
        monkeypatch.setattr(local.engine, "run", BrokenEngine())
        answer = local.embed(key, TEXT)
    assert answer.status == 500
    formatter = JsonFormatter()
    logged = "\n".join(formatter.format(record) for record in caplog.records)
    assert "cannot compute" in logged
    assert "cannot compute" not in answer.body.decode()
    assert key not in logged
    assert TEXT not in logged


# ---- files ---------------------------------------------------------------------------------------------------


def modes(folder: Path) -> dict[str, int]:
    """Return the mode of every file and folder below one, links left out."""
    found = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
    return {path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in found}


def test_what_a_server_and_the_commands_write_is_private_whatever_the_umask(
    installation: Installation, keys: Keys
) -> None:
    with umask_0():
        installation.done("models", "attach", "EMBEDDING", "--as", "MODES", "--app", "shop")
        installation.done("models", "detach", "MODES", "--app", "shop")
    found = modes(installation.home)
    of_the_test = {".", "stdout.log", "stderr.log"}
    expected = {"config-vars.json", "config-vars.json.lock", "provision.lock"}
    assert set(found) - of_the_test >= expected | ({"senryu.db"} if installation.url is None else set())
    assert {name: mode for name, mode in found.items() if name not in of_the_test and mode & 0o077} == {}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    origin = make_model(tmp_path / "origin" / "tiny")
    running = Hub(entry_of(origin), origin)
    thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_nobody_else_may_change_a_pulled_model_whole_or_half_whatever_the_umask(
    hub: Hub, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    env = {"HF_ENDPOINT": hub.url, "no_proxy": "*"}
    hub.faults[WEIGHTS] = ["cut"] * 20
    with umask_0():
        with pytest.raises(AssertionError, match="could not be fetched"):
            senryu(tmp_path, "pull", "somebody/Tiny", env=env | {"SENRYU_HOME": str(home)})
        half = modes(home)
        hub.faults.clear()
        senryu(tmp_path, "pull", "somebody/Tiny", env=env | {"SENRYU_HOME": str(home)})
    assert any(name.endswith(".part") for name in half)
    for found in (half, modes(home)):
        assert {name: mode for name, mode in found.items() if mode & 0o022} == {}
