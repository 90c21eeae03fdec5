"""Resources, where they are attached, and their keys, in one database. The only module that knows SQL.

Of a key it keeps the SHA-256 digest, never the key itself; ours hold 192 random bits and need no slow hash.
It knows nothing of HTTP, of models' files, or of the config vars that a person reads.
The migrations hold the schema; the tables here only name columns for queries (a test compares both).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from senryu import __version__
from senryu.config_vars import check_alias, check_app
from senryu.errors import StoreError
from senryu.store.migrations import MIGRATIONS, Utc
from senryu.types import Key, Resource

BUSY_SECONDS = 10  # how long a writer waits for another process's transaction
MAX_INPUTS = 96  # texts in one request, as the hosted service allows
MAX_CHARS = 2048  # code points of one text, likewise

# The hosted service names an add-on <model kind>-<adjective>-<5 digits>.
# fmt: off
ADJECTIVES = (
    "acute", "amber", "angular", "arched", "basic", "bright", "calm", "circular", "clear", "concave",
    "concise", "convex", "crisp", "cubic", "curved", "deep", "elliptic", "even", "fluted", "globular",
    "level", "linear", "metric", "modular", "oblique", "opal", "parallel", "plain", "polished", "quiet",
    "reticulated", "rigid", "round", "shaped", "slender", "solid", "spherical", "steady", "sturdy",
    "symmetrical", "tidy", "vertical",
)
# fmt: on


def digest(secret: str) -> bytes:
    """Return the digest under which a key is known, 32 bytes."""
    return hashlib.sha256(secret.encode("utf-8")).digest()


@dataclass(frozen=True, slots=True)
class Attachment:
    """A resource under the name that an app knows it by."""

    app: str
    alias: str
    resource_id: str


_applied = sa.Table(
    "migrations",
    sa.MetaData(),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("applied_at", Utc, nullable=False),
)
_resources = sa.table(
    "resources",
    sa.column("id", sa.String),
    sa.column("name", sa.String),
    sa.column("model_id", sa.Text),
    sa.column("max_inputs", sa.Integer),
    sa.column("max_chars", sa.Integer),
    sa.column("created_at", Utc),
)
_attachments = sa.table(
    "attachments",
    sa.column("app", sa.String),
    sa.column("alias", sa.String),
    sa.column("resource_id", sa.String),
)
_keys = sa.table(
    "keys",
    sa.column("id", sa.String),
    sa.column("digest", sa.LargeBinary),
    sa.column("resource_id", sa.String),
    sa.column("created_at", Utc),
    sa.column("revoked_at", Utc),
)
_revision = sa.table("revision", sa.column("number", sa.Integer))


class Store:
    """An open database. Safe to use from many threads, and beside other processes that have it open."""

    def __init__(self, engine: sa.Engine, path: Path) -> None:
        self._path = path
        self._engine = engine
        self._reader = engine.execution_options(write=False)
        self._writer = engine.execution_options(write=True)

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the database, made and brought to this program's schema as needed.

        Raises StoreError when it cannot be used: damaged, not ours to write, or from a newer Senryu.
        """
        try:
            _make_private(path)
        except OSError as error:
            raise StoreError(f"database {path}: {error.strerror or error}") from error
        store = cls(_sqlite(path), path)
        try:
            store._migrate()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def resources(self) -> tuple[Resource, ...]:
        """List the resources, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(
                sa.select(_resources).order_by(_resources.c.created_at, _resources.c.id)
            )
            return tuple(Resource(**row._mapping) for row in rows)

    def resource(self, id_or_name: str) -> Resource:
        """Find one resource; raises StoreError naming those there are."""
        with self._reading() as connection:
            return _find_resource(connection, id_or_name)

    def create_resource(
        self,
        model_id: str,
        *,
        name: str | None = None,
        max_inputs: int = MAX_INPUTS,
        max_chars: int = MAX_CHARS,
    ) -> Resource:
        """Provision a model, with its limits per request: texts, and code points per text.

        Raises StoreError when the name is taken.
        """
        with self._writing() as connection:
            if name is not None and _look_up(connection, name):
                raise StoreError(f"there is a resource {name!r} already; choose another name.")
            return _insert_resource(connection, model_id, name, max_inputs, max_chars)

    def attach(self, resource_id: str, *, app: str, alias: str) -> Attachment:
        """Give a resource a name in an app; doing it twice is doing it once.

        Raises StoreError when the name cannot be one, or stands for another resource in that app.
        """
        check_app(app)
        check_alias(alias)
        made = Attachment(app, alias, resource_id)
        with self._writing() as connection:
            _find_resource(connection, resource_id)
            held = _held(connection, app, alias)
            if held is None:
                connection.execute(sa.insert(_attachments), [_values(made)])
            elif held != resource_id:
                raise StoreError(f"{alias} of app {app!r} stands for resource {held}; choose another alias.")
        return made

    def attach_model(self, model_id: str, *, app: str, alias: str) -> Resource | None:
        """Have a name in an app stand for a model, in one transaction; returns the resource that it stands for.

        That is the one it has, if of this model; else one of this model, sooner one that is attached nowhere;
        else a new one. None, and no change, where the name is free and every resource of the model goes by
        other names. Raises StoreError when the name cannot be one.
        """
        check_app(app)
        check_alias(alias)
        with self._writing() as connection:
            held = _held(connection, app, alias)
            of_model = _free_first(connection, model_id)
            if held is None and of_model and _is_attached(connection, of_model[0]):
                return None
            kept = [resource for resource in of_model if resource.id == held]
            resource = (kept + of_model or [_insert_resource(connection, model_id)])[0]
            _point(connection, Attachment(app, alias, resource.id))
        return resource

    def attachments(self, app: str | None = None) -> tuple[Attachment, ...]:
        """List the attachments, of one app or of all, by app and alias."""
        query = sa.select(_attachments).order_by(_attachments.c.app, _attachments.c.alias)
        if app is not None:
            query = query.where(_attachments.c.app == app)
        with self._reading() as connection:
            return tuple(Attachment(**row._mapping) for row in connection.execute(query))

    def create_key(self, resource_id: str | None, *, secret: str | None = None) -> tuple[Key, str]:
        """Register a key for one resource, or with None for all; returns what is known of it, and the key.

        An active key given again is returned as it is. Raises StoreError for a revoked one, for one of
        another resource, and for a resource that does not exist.
        """
        secret = f"inf-{secrets.token_hex(24)}" if secret is None else secret
        with self._writing() as connection:
            if resource_id is not None:
                _find_resource(connection, resource_id)
            row = connection.execute(sa.select(_keys).where(_keys.c.digest == digest(secret))).first()
            if row is not None:
                return _same_key(Key(**row._mapping), resource_id), secret
            made = Key(str(uuid.uuid4()), digest(secret), resource_id, datetime.now(UTC))
            connection.execute(sa.insert(_keys), [_values(made)])
        return made, secret

    def move_key(self, key_id: str, resource_id: str) -> Key:
        """Make a key one for another resource, and for that only. Raises StoreError for an unknown one."""
        with self._writing() as connection:
            _find_resource(connection, resource_id)
            connection.execute(sa.update(_keys).where(_keys.c.id == key_id).values(resource_id=resource_id))
            return _find_key(connection, key_id)

    def revoke_key(self, key_id: str) -> Key:
        """Revoke a key for good; revoking it again changes nothing. Raises StoreError for an unknown one."""
        with self._writing() as connection:
            connection.execute(
                sa.update(_keys)
                .where(_keys.c.id == key_id)
                .where(_keys.c.revoked_at.is_(None))
                .values(revoked_at=datetime.now(UTC))
            )
            return _find_key(connection, key_id)

    def keys(self) -> tuple[Key, ...]:
        """List the keys, revoked ones included, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(_keys).order_by(_keys.c.created_at, _keys.c.id))
            return tuple(Key(**row._mapping) for row in rows)

    def revision(self) -> int:
        """Count the changes so far; a number other than before means that something has to be read again."""
        with self._reading() as connection:
            return int(connection.execute(sa.select(_revision.c.number)).scalar_one())

    @contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"database {self._path}: {_reason(error)}") from error

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._transaction(self._reader) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._transaction(self._writer) as connection:
            connection.execute(sa.update(_revision).values(number=_revision.c.number + 1))
            yield connection

    def _migrate(self) -> None:
        # NOTE: the write transaction is also the lock between programs that open the database at once
        with self._transaction(self._writer) as connection:
            _applied.create(connection, checkfirst=True)
            done = connection.scalar(sa.select(sa.func.max(_applied.c.number))) or 0
            if done > len(MIGRATIONS):
                raise StoreError(
                    f"database {self._path} has schema {done}, and senryu {__version__} knows it up to "
                    f"{len(MIGRATIONS)}: a newer Senryu wrote it. Upgrade, or set SENRYU_HOME to another one."
                )
            for number, migrate in enumerate(MIGRATIONS[done:], done + 1):
                migrate(connection)
                connection.execute(
                    sa.insert(_applied).values(
                        number=number, name=migrate.__name__, applied_at=datetime.now(UTC)
                    )
                )


def _make_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        # NOTE: SQLite gives its -wal and -shm files the mode of the database file
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        # NOTE: by name, not by descriptor: closing one would drop this process's SQLite locks on the file
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)


def _sqlite(path: Path) -> sa.Engine:
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # NOTE: transactions begin below, not where the driver guesses
        for pragma in (f"busy_timeout = {BUSY_SECONDS * 1000}", "journal_mode = WAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # NOTE: a writer that began as a reader fails at once when another one wrote in between
        writes = connection.get_execution_options().get("write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _reason(error: SQLAlchemyError) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(cause).split())


def _values(made: Resource | Key | Attachment) -> dict[str, Any]:
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


def _look_up(connection: sa.Connection, id_or_name: str) -> Resource | None:
    wanted = sa.or_(_resources.c.id == id_or_name, _resources.c.name == id_or_name)
    row = connection.execute(sa.select(_resources).where(wanted)).first()
    return Resource(**row._mapping) if row else None


def _find_resource(connection: sa.Connection, id_or_name: str) -> Resource:
    if found := _look_up(connection, id_or_name):
        return found
    there = connection.scalars(sa.select(_resources.c.name).order_by(_resources.c.name)).all()
    raise StoreError(f"there is no resource {id_or_name!r}; there are: {', '.join(there) or 'none yet'}.")


def _find_key(connection: sa.Connection, key_id: str) -> Key:
    row = connection.execute(sa.select(_keys).where(_keys.c.id == key_id)).first()
    if row is None:
        raise StoreError(f"there is no key with the id {key_id!r}.")
    return Key(**row._mapping)


def _insert_resource(
    connection: sa.Connection,
    model_id: str,
    name: str | None = None,
    max_inputs: int = MAX_INPUTS,
    max_chars: int = MAX_CHARS,
) -> Resource:
    name = _fresh_name(connection) if name is None else name
    made = Resource(str(uuid.uuid4()), name, model_id, max_inputs, max_chars, datetime.now(UTC))
    connection.execute(sa.insert(_resources), [_values(made)])
    return made


def _held(connection: sa.Connection, app: str, alias: str) -> str | None:
    return connection.scalar(sa.select(_attachments.c.resource_id).where(_is_named(app, alias)))


def _is_named(app: str, alias: str) -> sa.ColumnElement[bool]:
    return sa.and_(_attachments.c.app == app, _attachments.c.alias == alias)


def _point(connection: sa.Connection, wanted: Attachment) -> None:
    connection.execute(sa.delete(_attachments).where(_is_named(wanted.app, wanted.alias)))
    connection.execute(sa.insert(_attachments), [_values(wanted)])


def _free_first(connection: sa.Connection, model_id: str) -> list[Resource]:
    query = sa.select(_resources).where(_resources.c.model_id == model_id)
    rows = connection.execute(query.order_by(_resources.c.created_at, _resources.c.id))
    return sorted((Resource(**row._mapping) for row in rows), key=lambda each: _is_attached(connection, each))


def _is_attached(connection: sa.Connection, resource: Resource) -> bool:
    query = sa.select(_attachments.c.app).where(_attachments.c.resource_id == resource.id)
    return connection.execute(query).first() is not None


def _fresh_name(connection: sa.Connection) -> str:
    while True:
        name = f"embedding-{secrets.choice(ADJECTIVES)}-{secrets.randbelow(100_000):05d}"
        if not _look_up(connection, name):
            return name


def _same_key(known: Key, resource_id: str | None) -> Key:
    if known.revoked_at is not None:
        raise StoreError(f"this key was revoked on {known.revoked_at:%Y-%m-%d}; choose another one.")
    if known.resource_id != resource_id:
        theirs = f"resource {known.resource_id}" if known.resource_id else "every model"
        raise StoreError(f"this key is registered for {theirs} already; choose another one.")
    return known
