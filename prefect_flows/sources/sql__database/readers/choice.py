"""Chooses the reader for a database URL: COPY for Postgres, SQLAlchemy for all others."""

from __future__ import annotations

import sqlalchemy
from sqlalchemy import exc

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.sources.sql__database.readers.base import Reader
from prefect_flows.sources.sql__database.readers.postgres import PostgresReader
from prefect_flows.sources.sql__database.readers.sqlalchemy_rows import SqlAlchemyReader


def get_reader(url: str, schema_name: str | None, rows_at_once: int) -> Reader:
    """Build the reader for a database.

    Raises:
        ConfigurationError: the URL is invalid, or its driver is not installed.
    """
    try:
        address = sqlalchemy.make_url(url)
        if address.get_backend_name() == "postgresql":
            # The driver that the project installs, which need not be SQLAlchemy's default.
            address = address.set(drivername="postgresql+psycopg2")
        engine = sqlalchemy.create_engine(
            address, poolclass=sqlalchemy.NullPool, hide_parameters=True
        )
    except (exc.ArgumentError, exc.NoSuchModuleError, ModuleNotFoundError) as error:
        kind = type(error).__name__
        what = error.name if isinstance(error, ModuleNotFoundError) else None
        raise ConfigurationError(
            "The URL of the database is not a SQLAlchemy URL"
            + (f": its driver {what!r} is not installed." if what else f" ({kind})."),
            where="the secret `url` of source 'sql__database'",
            fix="write it again, such as postgresql://user:password@host:5432/database: "
            "uv run millrace secret sql-database-url-<target>; a driver: "
            "uv add --package millrace-sql-database NAME",
        ) from None  # the original error may contain the password
    if engine.dialect.name == "postgresql":
        return PostgresReader(engine, schema_name)
    return SqlAlchemyReader(engine, schema_name, rows_at_once)
