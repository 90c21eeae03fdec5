"""The store on real SQLite files: what it keeps, what it refuses, and what other processes see of it."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import senryu.store
from senryu.errors import StoreError
from senryu.store import Attachment, Store, digest, tables

LATEST = len(senryu.store.MIGRATIONS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "senryu.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def one_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_resource_is_found_by_id_and_by_name_with_its_limits(store: Store) -> None:
    made = store.create_resource("all-minilm-l6-v2", name="mine", max_inputs=7, max_chars=70)
    assert (made.model_id, made.name, made.max_inputs, made.max_chars) == ("all-minilm-l6-v2", "mine", 7, 70)
    assert store.resource(made.id) == store.resource("mine") == made
    assert store.resources() == (made,)


def test_the_limits_default_to_the_contracts(store: Store) -> None:
    made = store.create_resource("m")
    assert (made.max_inputs, made.max_chars) == (96, 2048)


def test_a_resource_keeps_the_names_that_it_is_served_under(store: Store) -> None:
    made = store.create_resource("m", served=["cohere-embed-multilingual", "b/c", "b/c"])
    assert made.served_names == ("b/c", "cohere-embed-multilingual")
    assert store.resource(made.id) == made
    assert store.resources() == (made,)


@pytest.mark.parametrize("given", [{"name": "taken"}, {"served": ["free", "taken"]}])
@pytest.mark.parametrize("held", [{"name": "taken"}, {"served": ["taken"]}])
def test_a_served_name_stands_for_one_resource(
    store: Store, held: dict[str, Any], given: dict[str, Any]
) -> None:
    first = store.create_resource("m", **held)
    with pytest.raises(StoreError, match="'taken' already"):
        store.create_resource("m", **given)
    assert store.resources() == (first,)
    assert store.create_resource("m", served=["free"]).served_names == ("free",)


def test_a_resource_gets_a_name_like_an_add_ons_and_each_its_own(store: Store) -> None:
    names = {store.create_resource("m").name for _ in range(20)}
    assert len(names) == 20
    assert all(re.fullmatch(r"embedding-[a-z]+-\d{5}", name) for name in names)


def test_a_name_that_is_taken_by_chance_is_not_given_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter([14325, 14325, 14326])
    monkeypatch.setattr(senryu.store, "ADJECTIVES", ("rigid",))
    monkeypatch.setattr("senryu.store.secrets.randbelow", lambda _: next(numbers))
    assert store.create_resource("m").name == "embedding-rigid-14325"
    assert store.create_resource("m").name == "embedding-rigid-14326"


def test_a_name_that_is_taken_is_refused_and_leaves_nothing_behind(store: Store) -> None:
    first = store.create_resource("m", name="mine")
    for taken in ("mine", first.id):
        with pytest.raises(StoreError, match=taken):
            store.create_resource("m", name=taken)
    assert store.resources() == (first,)


def test_an_unknown_resource_is_an_error_that_names_those_there_are(store: Store) -> None:
    store.create_resource("m", name="mine")
    for ask in (
        lambda: store.resource("other"),
        lambda: store.attach("other", app="default", alias="EMBEDDING"),
        lambda: store.create_key("other"),
    ):
        with pytest.raises(StoreError, match="'other'; there are: mine"):
            ask()
    assert store.attachments() == ()
    assert store.keys() == ()


def test_attachments_are_listed_by_app(store: Store) -> None:
    one, two = store.create_resource("m"), store.create_resource("m")
    store.attach(one.id, app="shop", alias="EMBEDDING")
    store.attach(two.id, app="shop", alias="ANSWERS")
    store.attach(one.id, app="blog", alias="EMBEDDING")
    assert store.attachments("shop") == (
        Attachment("shop", "ANSWERS", two.id),
        Attachment("shop", "EMBEDDING", one.id),
    )
    assert [item.app for item in store.attachments()] == ["blog", "shop", "shop"]
    assert store.attachments("nowhere") == ()


def test_attaching_twice_is_attaching_once(store: Store) -> None:
    made = store.create_resource("m")
    assert store.attach(made.id, app="a", alias="E") == store.attach(made.id, app="a", alias="E")
    assert len(store.attachments()) == 1


def test_an_alias_stands_for_one_resource_of_an_app(store: Store) -> None:
    one, two = store.create_resource("m"), store.create_resource("m")
    store.attach(one.id, app="a", alias="E")
    with pytest.raises(StoreError, match=f"E of app 'a' stands for resource {one.id}"):
        store.attach(two.id, app="a", alias="E")
    assert store.attachments() == (Attachment("a", "E", one.id),)


def test_a_name_is_given_to_a_new_resource_of_a_model_once(store: Store) -> None:
    before = store.revision()
    made = store.attach_model("m", app="a", alias="E")
    assert made is not None
    assert (made.model_id, made.max_inputs, made.max_chars) == ("m", 96, 2048)
    assert store.revision() == before + 1
    assert store.attach_model("m", app="a", alias="E") == made
    assert store.resources() == (made,)
    assert store.attachments() == (Attachment("a", "E", made.id),)


def test_a_name_moves_to_another_model_and_back_to_the_same_resource(store: Store) -> None:
    one, two, back = (store.attach_model(model, app="a", alias="E") for model in ("m", "n", "m"))
    assert one is not None
    assert two is not None
    assert (one.model_id, two.model_id, back) == ("m", "n", one)
    assert store.attachments() == (Attachment("a", "E", one.id),)
    assert store.resources() == (one, two)


def test_a_name_keeps_its_resource_whichever_others_are_of_its_model(store: Store) -> None:
    _, two = store.create_resource("m"), store.create_resource("m")
    store.attach(two.id, app="a", alias="E")
    assert store.attach_model("m", app="a", alias="E") == two


def test_a_name_sooner_takes_a_resource_that_is_attached_nowhere(store: Store) -> None:
    one, two = store.create_resource("m"), store.create_resource("m")
    store.attach(one.id, app="b", alias="OTHER")
    assert store.attach_model("m", app="a", alias="E") == two


def test_a_free_name_takes_no_resource_from_the_names_somebody_chose(store: Store) -> None:
    made = store.create_resource("m")
    store.attach(made.id, app="a", alias="OTHER")
    assert store.attach_model("m", app="a", alias="E") is None
    assert store.attachments() == (Attachment("a", "OTHER", made.id),)
    store.attach_model("n", app="a", alias="E")
    assert store.attach_model("m", app="a", alias="E") == made


def test_a_resource_and_its_name_are_made_together_or_not_at_all(store: Store) -> None:
    before = store.revision()
    with store._engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON attachments BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    with pytest.raises(StoreError, match="refused"):
        store.attach_model("m", app="a", alias="E")
    assert (store.resources(), store.attachments(), store.revision()) == ((), (), before)


@pytest.mark.parametrize("alias", ["A", "EMBEDDING", "A_1", "A" * 64])
def test_an_alias_can_be_upper_case_with_digits_and_underscores(store: Store, alias: str) -> None:
    assert store.attach(store.create_resource("m").id, app="a", alias=alias).alias == alias


@pytest.mark.parametrize("alias", ["", "a", "1A", "_A", "A-B", "Ä", "A\n", "A" * 65])
def test_any_other_alias_is_refused_by_name(store: Store, alias: str) -> None:
    made = store.create_resource("m")
    with pytest.raises(StoreError, match=re.escape(f"alias {alias!r}")):
        store.attach(made.id, app="a", alias=alias)


@pytest.mark.parametrize("app", ["a", "my-app", "9", "a" * 64])
def test_an_app_can_be_lower_case_with_digits_and_dashes(store: Store, app: str) -> None:
    assert store.attach(store.create_resource("m").id, app=app, alias="E").app == app


@pytest.mark.parametrize("app", ["", "A", "-a", "a_b", "a.b", "a\n", "a" * 65])
def test_any_other_app_is_refused_by_name(store: Store, app: str) -> None:
    made = store.create_resource("m")
    with pytest.raises(StoreError, match=re.escape(f"app {app!r}")):
        store.attach(made.id, app=app, alias="E")


def test_a_digest_is_the_sha256_of_the_key() -> None:
    assert digest("inf-ü") == hashlib.sha256("inf-ü".encode()).digest()


def test_a_key_is_made_long_and_kept_as_a_digest_only(store: Store, path: Path) -> None:
    made, secret = store.create_key(store.create_resource("m").id)
    assert re.fullmatch(r"inf-[0-9a-f]{48}", secret)
    assert made.digest == digest(secret)
    assert store.keys() == (made,)
    kept = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert made.digest in kept
    assert secret.encode() not in kept


def test_a_key_can_be_for_every_resource(store: Store) -> None:
    made, _ = store.create_key(None)
    assert made.resource_id is None
    assert store.keys() == (made,)


def test_a_given_key_is_registered_once(store: Store) -> None:
    made = store.create_resource("m")
    first = store.create_key(made.id, secret="inf-given-by-the-operator")
    assert first == store.create_key(made.id, secret="inf-given-by-the-operator")
    assert first[1] == "inf-given-by-the-operator"
    assert store.keys() == (first[0],)


def test_a_key_of_another_resource_is_refused_and_not_shown(store: Store) -> None:
    one, two = store.create_resource("m"), store.create_resource("m")
    store.create_key(one.id, secret="inf-of-the-first-one")
    for other in (two.id, None):
        with pytest.raises(StoreError, match=f"for resource {one.id} already") as error:
            store.create_key(other, secret="inf-of-the-first-one")
        assert "inf-of-the-first-one" not in str(error.value)
    store.create_key(None, secret="inf-of-every-one")
    with pytest.raises(StoreError, match="for every model already"):
        store.create_key(one.id, secret="inf-of-every-one")
    assert len(store.keys()) == 2


def test_a_key_moves_to_another_resource(store: Store) -> None:
    one, two = store.create_resource("m"), store.create_resource("n")
    key, _ = store.create_key(one.id)
    moved = store.move_key(key.id, two.id)
    assert moved == replace(key, resource_id=two.id)
    assert store.keys() == (moved,)
    with pytest.raises(StoreError, match="no key with the id 'nope'"):
        store.move_key("nope", two.id)
    with pytest.raises(StoreError, match="no resource 'nope'"):
        store.move_key(key.id, "nope")
    assert store.keys() == (moved,)


def test_a_revoked_key_stays_revoked(store: Store) -> None:
    made = store.create_resource("m")
    key, secret = store.create_key(made.id)
    revoked = store.revoke_key(key.id)
    assert revoked.revoked_at is not None
    assert revoked.revoked_at >= key.created_at
    assert store.revoke_key(key.id) == revoked
    assert store.keys() == (revoked,)
    with pytest.raises(StoreError, match="was revoked on"):
        store.create_key(made.id, secret=secret)


def test_revoking_one_key_leaves_the_others(store: Store) -> None:
    made = store.create_resource("m")
    (one, _), (two, _) = store.create_key(made.id), store.create_key(made.id)
    store.revoke_key(one.id)
    known = store.keys()
    assert [key.id for key in known if key.revoked_at is None] == [two.id]


def test_revoking_an_unknown_key_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="no key with the id 'nope'"):
        store.revoke_key("nope")


def test_moments_are_in_utc_and_know_it(store: Store, path: Path) -> None:
    resource = store.create_resource("m")
    key, _ = store.create_key(resource.id)
    store.revoke_key(key.id)
    with Store.open(path) as again:
        (kept,) = again.keys()
        assert kept.revoked_at is not None
        for moment in (again.resource(resource.id).created_at, kept.created_at, kept.revoked_at):
            assert moment.tzinfo is UTC
            assert abs(datetime.now(UTC) - moment) < timedelta(hours=1)
        assert again.resource(resource.id) == resource


def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    with Store.open(path) as store:
        resource = store.create_resource("m")
        attachment = store.attach(resource.id, app="a", alias="E")
        key, _ = store.create_key(resource.id)
        number = store.revision()
    with Store.open(path) as store:
        assert store.resources() == (resource,)
        assert store.attachments() == (attachment,)
        assert store.keys() == (key,)
        assert store.revision() == number


def test_the_revision_moves_with_every_write_and_with_no_read(store: Store, path: Path) -> None:
    seen = [store.revision()]
    with Store.open(path) as other:
        resource = other.create_resource("m")
        seen.append(store.revision())
        other.attach(resource.id, app="a", alias="E")
        seen.append(store.revision())
        key, _ = other.create_key(resource.id)
        seen.append(store.revision())
        other.revoke_key(key.id)
        seen.append(store.revision())
        other.resources(), other.resource(resource.id), other.attachments(), other.keys()
    assert seen == sorted(set(seen))
    assert store.revision() == seen[-1]


def test_a_refused_write_does_not_move_the_revision(store: Store) -> None:
    store.create_resource("m", name="mine")
    before = store.revision()
    with pytest.raises(StoreError):
        store.create_resource("m", name="mine")
    with pytest.raises(StoreError):
        store.revoke_key("nope")
    assert store.revision() == before


def test_writers_in_many_threads_lose_nothing(store: Store, path: Path) -> None:
    def write() -> None:
        with Store.open(path) as mine:
            for _ in range(10):
                mine.create_resource("m")
                store.create_key(None)

    threads = [threading.Thread(target=write) for _ in range(4)]
    before = store.revision()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.resources()) == len(store.keys()) == 40
    assert store.revision() == before + 80


def test_the_folder_and_every_file_are_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with Store.open(path) as store:
            store.create_resource("m")
            files = {file.name: mode(file) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert mode(path.parent) == 0o700
    assert files == {"senryu.db": 0o600, "senryu.db-wal": 0o600, "senryu.db-shm": 0o600}


def test_a_database_that_others_may_read_is_made_private(path: Path) -> None:
    Store.open(path).close()
    path.chmod(0o644)
    with Store.open(path) as store:
        store.create_resource("m")
        assert {mode(file) for file in path.parent.iterdir()} == {0o600}


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(StoreError) as error:
        Store.open(path)
    assert one_line(error) == f"database {path}: file is not a database"
    assert path.read_bytes() == b"not a database, " * 100


def test_another_programs_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE keys (theirs TEXT)")
    other.commit()
    with pytest.raises(StoreError) as error:
        Store.open(path)
    assert "table keys already exists" in one_line(error)
    assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("keys",)]
    other.close()


def test_a_folder_in_place_of_the_database_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreError) as error:
        Store.open(path)
    assert str(path) in one_line(error)


def test_a_file_in_place_of_the_folder_is_refused(path: Path) -> None:
    path.parent.write_text("")
    with pytest.raises(StoreError) as error:
        Store.open(path)
    assert str(path) in one_line(error)


def test_a_database_lost_while_open_is_an_error_of_one_line(store: Store, path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("DROP TABLE keys")
    other.commit()
    other.close()
    with pytest.raises(StoreError) as error:
        store.keys()
    assert one_line(error) == f"database {path}: no such table: keys"


def test_a_newer_database_is_refused_and_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def m_of_the_future(connection: sa.Connection) -> None:
        connection.execute(sa.text("CREATE TABLE future (id INTEGER)"))

    with monkeypatch.context() as patch:
        patch.setattr(senryu.store, "MIGRATIONS", (*senryu.store.MIGRATIONS, m_of_the_future))
        Store.open(path).close()
    with pytest.raises(
        StoreError, match=rf"has schema {LATEST + 1}, .* up to {LATEST}: a newer Senryu wrote it"
    ) as error:
        Store.open(path)
    assert str(path) in one_line(error)


def test_an_older_database_is_brought_up_and_keeps_its_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def m_add_note(connection: sa.Connection) -> None:
        connection.execute(sa.text("ALTER TABLE resources ADD COLUMN note TEXT"))

    with Store.open(path) as store:
        made = store.create_resource("m")
    monkeypatch.setattr(senryu.store, "MIGRATIONS", (*senryu.store.MIGRATIONS, m_add_note))
    for _ in range(2):
        with Store.open(path) as store:
            assert store.resource(made.id) == made
    assert applied(path)[-1] == (LATEST + 1, "m_add_note")
    assert len(applied(path)) == LATEST + 1


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def m_fails_midway(connection: sa.Connection) -> None:
        connection.execute(sa.text("CREATE TABLE half (id INTEGER)"))
        connection.execute(sa.text("CREATE TABLE half (id INTEGER)"))

    with Store.open(path) as store:
        made = store.create_resource("m")
    with monkeypatch.context() as patch:
        patch.setattr(senryu.store, "MIGRATIONS", (*senryu.store.MIGRATIONS, m_fails_midway))
        with pytest.raises(StoreError, match="table half already exists"):
            Store.open(path)
    with Store.open(path) as store:
        assert store.resource(made.id) == made
    assert len(applied(path)) == LATEST


def applied(path: Path) -> list[tuple[int, str]]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT number, name FROM migrations ORDER BY number").fetchall()
    connection.close()
    return rows


def test_the_columns_that_queries_name_are_the_schemas(store: Store, path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    found = sa.inspect(engine)
    for table in (
        tables.resources,
        tables.attachments,
        tables.keys,
        tables.served_names,
        tables.revision,
    ):
        assert [column["name"] for column in found.get_columns(table.name)] == table.c.keys()
    assert set(found.get_table_names()) == {
        *("attachments", "keys", "migrations", "resources", "revision", "served_names")
    }
    engine.dispose()


def test_the_database_itself_keeps_keys_to_resources_that_exist(store: Store) -> None:
    key, _ = store.create_key(None)
    with (
        pytest.raises(StoreError, match="FOREIGN KEY"),
        store._writing() as connection,
    ):
        connection.execute(sa.update(tables.keys).values(resource_id="nowhere"))
    assert store.keys() == (key,)


def test_the_schema_can_be_said_to_postgresql() -> None:
    said: list[str] = []

    def compile_(statement: Any, *_: Any, **__: Any) -> None:
        said.append(str(statement.compile(dialect=engine.dialect)))

    engine = sa.create_mock_engine("postgresql://", compile_)
    for migrate in senryu.store.MIGRATIONS:
        migrate(engine)  # type: ignore[arg-type]
    schema = "\n".join(said)
    assert schema.count("CREATE TABLE") == 5
    assert "created_at TIMESTAMP WITH TIME ZONE NOT NULL" in schema
    assert "digest BYTEA NOT NULL" in schema


OPEN_WHEN_TOLD = """
import sys
from pathlib import Path
from senryu.store import Store
print("ready", flush=True)
sys.stdin.readline()
for path in sys.argv[1:]:
    with Store.open(Path(path)) as store:
        store.create_resource("m")
"""


def test_four_processes_that_open_at_once_leave_one_schema(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) / "senryu.db" for number in range(20)]
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_WHEN_TOLD, *map(str, paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ends = [racer.communicate() for racer in racers]
    assert [(racer.returncode, end[1]) for racer, end in zip(racers, ends, strict=True)] == [(0, "")] * 4
    for path in paths:
        assert applied(path) == [
            (1, "m001_create_resources_attachments_and_keys"),
            (2, "m002_create_revision"),
            (3, "m003_create_served_names"),
        ]
        with Store.open(path) as store:
            assert len(store.resources()) == store.revision() == 4
