"""The schema, as numbered steps. Never change one that was released: add the next.

A step says what it changes and why; it is applied once, under the store's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

import sqlalchemy as sa


class Utc(sa.types.TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no zone, so it is taken off on the way in and put back on the way out."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> datetime | None:
        return value and (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC))


def m001_create_resources_attachments_and_keys(connection: sa.Connection) -> None:
    """The first schema: provisioned models, their names in apps, and the digests of their keys."""
    schema = sa.MetaData()
    sa.Table(
        "resources",
        schema,
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("max_inputs", sa.Integer, nullable=False),
        sa.Column("max_chars", sa.Integer, nullable=False),
        sa.Column("created_at", Utc, nullable=False),
    )
    sa.Table(
        "attachments",
        schema,
        sa.Column("app", sa.String(64), primary_key=True),
        sa.Column("alias", sa.String(64), primary_key=True),
        sa.Column("resource_id", sa.ForeignKey("resources.id"), nullable=False),
    )
    sa.Table(
        "keys",
        schema,
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("resource_id", sa.ForeignKey("resources.id"), nullable=True),
        sa.Column("created_at", Utc, nullable=False),
        sa.Column("revoked_at", Utc, nullable=True),
    )
    schema.create_all(connection, checkfirst=False)


def m002_create_revision(connection: sa.Connection) -> None:
    """One row that counts the changes, so that a running server sees cheaply that it has to read again."""
    revision = sa.Table("revision", sa.MetaData(), sa.Column("number", sa.Integer, nullable=False))
    revision.create(connection, checkfirst=False)
    connection.execute(sa.insert(revision).values(number=0))


def m003_create_served_names(connection: sa.Connection) -> None:
    """Names that a resource answers to besides its own and its model's, each of one resource."""
    schema = sa.MetaData()
    sa.Table("resources", schema, sa.Column("id", sa.String(36), primary_key=True))
    served_names = sa.Table(
        "served_names",
        schema,
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("resource_id", sa.ForeignKey("resources.id"), nullable=False),
    )
    served_names.create(connection, checkfirst=False)


Migration: TypeAlias = Callable[[sa.Connection], None]
MIGRATIONS: tuple[Migration, ...] = (
    m001_create_resources_attachments_and_keys,
    m002_create_revision,
    m003_create_served_names,
)
