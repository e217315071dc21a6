"""Find the Prefect server's database (SQLite or Postgres) from Prefect's settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url

from infrastructure.local.prefect_server import log_file
from prefect_flows.core.errors import BackupError

URL_VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"

# Their row counts verify a restored database; a database is empty if all of them are.
TABLES = (
    "flow", "deployment", "flow_run", "flow_run_state", "task_run", "block_document", "variable",
    "work_pool", "artifact", "automation", "log",
)  # fmt: skip


@dataclass(frozen=True)
class Sqlite:
    """A SQLite database file."""

    file: Path

    @property
    def address(self) -> str:
        """Address for error messages."""
        return str(self.file)


@dataclass(frozen=True)
class Postgres:
    """Connection of a Postgres database as libpq variables, with the password separate."""

    name: str
    variables: dict[str, str]
    password: str | None = field(repr=False)

    @property
    def address(self) -> str:
        """Address for error messages."""
        v = self.variables
        return f"postgres {v.get('PGUSER', '')}@{v['PGHOST']}:{v['PGPORT']}/{self.name}"

    def environment(self) -> dict[str, str]:
        """Return libpq's environment variables; a command line would expose the password."""
        secret = {} if self.password is None else {"PGPASSWORD": self.password}
        return self.variables | secret

    def parameters(self, database: str | None = None) -> dict[str, Any]:
        """Return the connection parameters for psycopg2, optionally with another database name."""
        names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGOPTIONS": "options",
                 "PGSSLMODE": "sslmode", "PGSSLROOTCERT": "sslrootcert", "PGSSLCERT": "sslcert",
                 "PGSSLKEY": "sslkey"}  # fmt: skip
        parameters = {names[key]: value for key, value in self.variables.items() if key in names}
        if self.password is not None:
            parameters["password"] = self.password
        return parameters | {"dbname": database or self.name}


def get_configured_database(local_dir: Path) -> Sqlite | Postgres:
    """Return the database of a Prefect server that is started in this environment.

    If neither home nor URL is set, it is the database of `millrace up`, whose `down` removes the
    `prefect.toml` that sets the home.

    Raises:
        BackupError: the database is in memory, or neither SQLite nor Postgres.
    """
    from prefect.settings import get_current_settings

    everything = get_current_settings()
    settings = everything.server.database
    assert settings.connection_url is not None  # noqa: S101 # Prefect fills it
    is_configured = (
        "home" in everything.model_fields_set or "connection_url" in settings.model_fields_set
    )
    if not is_configured:
        return Sqlite(log_file(local_dir).with_name("prefect.db"))
    url = make_url(settings.connection_url.get_secret_value())
    kind = url.get_backend_name()
    if kind == "sqlite" and url.database and ":memory:" not in url.database:
        return Sqlite(Path(url.database.removeprefix("file:")))
    if kind == "postgresql":
        args = settings.sqlalchemy.connect_args
        return parse_url(url, search_path=args.search_path, tls=dict(args.tls))
    raise BackupError(
        "The Prefect server's database is neither a SQLite file nor Postgres: "
        f"{url.render_as_string()}.",
        where=f"{URL_VARIABLE}, and PREFECT_HOME",
        fix=f"set {URL_VARIABLE} to the one that the server has",
    )


def parse_url(url: URL, search_path: str | None, tls: dict[str, object]) -> Postgres:
    """Convert a database URL the way SQLAlchemy and asyncpg read it."""

    def get_query_value(name: str) -> str | None:
        value = url.query.get(name)
        return value if isinstance(value, str) or value is None else value[0]

    host = get_query_value("host") or url.host or "localhost"
    if get_query_value("port") is not None or (
        get_query_value("host") and ":" in host and not host.startswith("/")
    ):
        host, _, port = host.partition(":")
        port = get_query_value("port") or port
    else:
        port = str(url.port or 5432)
    mode = get_query_value("ssl") or get_query_value("sslmode")
    variables = {
        "PGHOST": host,
        "PGPORT": port,
        "PGUSER": url.username or get_query_value("user"),
        "PGDATABASE": url.database,
        "PGOPTIONS": f"-csearch_path={search_path.replace(' ', '')}" if search_path else None,
        "PGSSLMODE": {"True": "require", "true": "require"}.get(mode, mode) if mode else None,
    }
    if tls.get("enabled"):
        variables |= {
            "PGSSLMODE": "verify-full" if tls.get("check_hostname") else "verify-ca",
            "PGSSLROOTCERT": _text(tls.get("ca_file")),
            "PGSSLCERT": _text(tls.get("cert_file")),
            "PGSSLKEY": _text(tls.get("key_file")),
        }
    return Postgres(
        url.database or "postgres",
        {name: value for name, value in variables.items() if value},
        get_query_value("password") or (str(url.password) if url.password else None),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
