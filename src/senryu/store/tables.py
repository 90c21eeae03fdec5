"""The columns that queries name. The migrations hold the schema itself; a test compares both."""

from __future__ import annotations

import sqlalchemy as sa

from senryu.store.migrations import Utc

applied = sa.Table(
    "migrations",
    sa.MetaData(),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("applied_at", Utc, nullable=False),
)
resources = sa.table(
    "resources",
    sa.column("id", sa.String),
    sa.column("name", sa.String),
    sa.column("model_id", sa.Text),
    sa.column("max_inputs", sa.Integer),
    sa.column("max_chars", sa.Integer),
    sa.column("created_at", Utc),
)
attachments = sa.table(
    "attachments",
    sa.column("app", sa.String),
    sa.column("alias", sa.String),
    sa.column("resource_id", sa.String),
)
keys = sa.table(
    "keys",
    sa.column("id", sa.String),
    sa.column("digest", sa.LargeBinary),
    sa.column("resource_id", sa.String),
    sa.column("created_at", Utc),
    sa.column("revoked_at", Utc),
)
served_names = sa.table(
    "served_names",
    sa.column("name", sa.String),
    sa.column("resource_id", sa.String),
)
revision = sa.table("revision", sa.column("number", sa.Integer))
