"""Resources, where they are attached, and their keys, in one database. The only module that knows SQL.

Of a key it keeps the SHA-256 digest, never the key itself; ours hold 192 random bits and need no slow hash.
It knows nothing of HTTP, of models' files, or of the config vars that a person reads.
The migrations hold the schema; the tables here only name columns for queries (a test compares both).
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from senryu import __version__
from senryu.config_vars import check_alias, check_app
from senryu.errors import StoreError
from senryu.store.migrations import MIGRATIONS
from senryu.store.sqlite import make_private, reason, sqlite
from senryu.store.tables import applied, attachments, keys, resources, revision, served_names
from senryu.types import Key, Resource

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
            make_private(path)
        except OSError as error:
            raise StoreError(f"database {path}: {error.strerror or error}") from error
        store = cls(sqlite(path), path)
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
            return tuple(_read_resources(connection))

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
        served: Iterable[str] = (),
    ) -> Resource:
        """Provision a model, with its limits per request: texts, and code points per text.

        It answers to the names in `served` too. Raises StoreError when a name is taken.
        """
        served = tuple(sorted(set(served)))
        with self._writing() as connection:
            for wanted in (*served, *([name] if name is not None else [])):
                if _is_taken(connection, wanted):
                    raise StoreError(f"there is a resource {wanted!r} already; choose another name.")
            made = _insert_resource(connection, model_id, name, max_inputs, max_chars)
            for each in served:
                connection.execute(sa.insert(served_names).values(name=each, resource_id=made.id))
        return replace(made, served_names=served)

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
                connection.execute(sa.insert(attachments), [_values(made)])
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
        query = sa.select(attachments).order_by(attachments.c.app, attachments.c.alias)
        if app is not None:
            query = query.where(attachments.c.app == app)
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
            row = connection.execute(sa.select(keys).where(keys.c.digest == digest(secret))).first()
            if row is not None:
                return _same_key(Key(**row._mapping), resource_id), secret
            made = Key(str(uuid.uuid4()), digest(secret), resource_id, datetime.now(UTC))
            connection.execute(sa.insert(keys), [_values(made)])
        return made, secret

    def move_key(self, key_id: str, resource_id: str) -> Key:
        """Make a key one for another resource, and for that only. Raises StoreError for an unknown one."""
        with self._writing() as connection:
            _find_resource(connection, resource_id)
            connection.execute(sa.update(keys).where(keys.c.id == key_id).values(resource_id=resource_id))
            return _find_key(connection, key_id)

    def revoke_key(self, key_id: str) -> Key:
        """Revoke a key for good; revoking it again changes nothing. Raises StoreError for an unknown one."""
        with self._writing() as connection:
            connection.execute(
                sa.update(keys)
                .where(keys.c.id == key_id)
                .where(keys.c.revoked_at.is_(None))
                .values(revoked_at=datetime.now(UTC))
            )
            return _find_key(connection, key_id)

    def keys(self) -> tuple[Key, ...]:
        """List the keys, revoked ones included, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(keys).order_by(keys.c.created_at, keys.c.id))
            return tuple(Key(**row._mapping) for row in rows)

    def revision(self) -> int:
        """Count the changes so far; a number other than before means that something has to be read again."""
        with self._reading() as connection:
            return int(connection.execute(sa.select(revision.c.number)).scalar_one())

    @contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"database {self._path}: {reason(error)}") from error

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._transaction(self._reader) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._transaction(self._writer) as connection:
            connection.execute(sa.update(revision).values(number=revision.c.number + 1))
            yield connection

    def _migrate(self) -> None:
        # NOTE: the write transaction is also the lock between programs that open the database at once
        with self._transaction(self._writer) as connection:
            applied.create(connection, checkfirst=True)
            done = connection.scalar(sa.select(sa.func.max(applied.c.number))) or 0
            if done > len(MIGRATIONS):
                raise StoreError(
                    f"database {self._path} has schema {done}, and senryu {__version__} knows it up to "
                    f"{len(MIGRATIONS)}: a newer Senryu wrote it. Upgrade, or set SENRYU_HOME to another one."
                )
            for number, migrate in enumerate(MIGRATIONS[done:], done + 1):
                migrate(connection)
                connection.execute(
                    sa.insert(applied).values(
                        number=number, name=migrate.__name__, applied_at=datetime.now(UTC)
                    )
                )


def _values(made: Resource | Key | Attachment) -> dict[str, Any]:
    # NOTE: served names are rows of a table of their own.
    return {name: getattr(made, name) for name in made.__dataclass_fields__ if name != "served_names"}


def _read_resources(connection: sa.Connection, where: sa.ColumnElement[bool] | None = None) -> list[Resource]:
    """Read the resources, oldest first."""
    query = sa.select(resources).order_by(resources.c.created_at, resources.c.id)
    rows = connection.execute(query if where is None else query.where(where)).all()
    served = connection.execute(sa.select(served_names).order_by(served_names.c.name)).all()
    return [
        Resource(**row._mapping, served_names=tuple(s.name for s in served if s.resource_id == row.id))
        for row in rows
    ]


def _look_up(connection: sa.Connection, id_or_name: str) -> Resource | None:
    wanted = sa.or_(resources.c.id == id_or_name, resources.c.name == id_or_name)
    return next(iter(_read_resources(connection, wanted)), None)


def _is_taken(connection: sa.Connection, name: str) -> bool:
    query = sa.select(served_names.c.name).where(served_names.c.name == name)
    return _look_up(connection, name) is not None or connection.execute(query).first() is not None


def _find_resource(connection: sa.Connection, id_or_name: str) -> Resource:
    if found := _look_up(connection, id_or_name):
        return found
    there = connection.scalars(sa.select(resources.c.name).order_by(resources.c.name)).all()
    raise StoreError(f"there is no resource {id_or_name!r}; there are: {', '.join(there) or 'none yet'}.")


def _find_key(connection: sa.Connection, key_id: str) -> Key:
    row = connection.execute(sa.select(keys).where(keys.c.id == key_id)).first()
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
    connection.execute(sa.insert(resources), [_values(made)])
    return made


def _held(connection: sa.Connection, app: str, alias: str) -> str | None:
    return connection.scalar(sa.select(attachments.c.resource_id).where(_is_named(app, alias)))


def _is_named(app: str, alias: str) -> sa.ColumnElement[bool]:
    return sa.and_(attachments.c.app == app, attachments.c.alias == alias)


def _point(connection: sa.Connection, wanted: Attachment) -> None:
    connection.execute(sa.delete(attachments).where(_is_named(wanted.app, wanted.alias)))
    connection.execute(sa.insert(attachments), [_values(wanted)])


def _free_first(connection: sa.Connection, model_id: str) -> list[Resource]:
    of_model = _read_resources(connection, resources.c.model_id == model_id)
    return sorted(of_model, key=lambda each: _is_attached(connection, each))


def _is_attached(connection: sa.Connection, resource: Resource) -> bool:
    query = sa.select(attachments.c.app).where(attachments.c.resource_id == resource.id)
    return connection.execute(query).first() is not None


def _fresh_name(connection: sa.Connection) -> str:
    while True:
        name = f"embedding-{secrets.choice(ADJECTIVES)}-{secrets.randbelow(100_000):05d}"
        if not _is_taken(connection, name):
            return name


def _same_key(known: Key, resource_id: str | None) -> Key:
    if known.revoked_at is not None:
        raise StoreError(f"this key was revoked on {known.revoked_at:%Y-%m-%d}; choose another one.")
    if known.resource_id != resource_id:
        theirs = f"resource {known.resource_id}" if known.resource_id else "every model"
        raise StoreError(f"this key is registered for {theirs} already; choose another one.")
    return known
