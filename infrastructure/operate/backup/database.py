"""Which database the Prefect server of this environment has, by Prefect's own settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url

from infrastructure.local.prefect_server import log_file
from prefect_flows.core.errors import BackupError

URL_VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"

# What a restored database is compared by, and what a database is called empty without.
TABLES = (
    "flow", "deployment", "flow_run", "flow_run_state", "task_run", "block_document", "variable",
    "work_pool", "artifact", "automation", "log",
)  # fmt: skip


@dataclass(frozen=True)
class Sqlite:
    """A file."""

    file: Path

    @property
    def address(self) -> str:
        """As an error names it."""
        return str(self.file)


@dataclass(frozen=True)
class Postgres:
    """Where a Postgres answers, in the names of libpq's variables; the password apart."""

    name: str
    variables: dict[str, str]
    password: str | None = field(repr=False)

    @property
    def address(self) -> str:
        """As an error names it."""
        v = self.variables
        return f"postgres {v.get('PGUSER', '')}@{v['PGHOST']}:{v['PGPORT']}/{self.name}"

    def environment(self) -> dict[str, str]:
        """What a program of Postgres is told by; a command line would show it to everybody."""
        secret = {} if self.password is None else {"PGPASSWORD": self.password}
        return self.variables | secret

    def parameters(self, database: str | None = None) -> dict[str, Any]:
        """The same for psycopg2, for this database or another one of the server."""
        names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGOPTIONS": "options",
                 "PGSSLMODE": "sslmode", "PGSSLROOTCERT": "sslrootcert", "PGSSLCERT": "sslcert",
                 "PGSSLKEY": "sslkey"}  # fmt: skip
        given = {names[key]: value for key, value in self.variables.items() if key in names}
        if self.password is not None:
            given["password"] = self.password
        return given | {"dbname": database or self.name}


def configured(local_dir: Path) -> Sqlite | Postgres:
    """The database of the server that would start here.

    Where neither a home nor a URL is set, it is the one of `millrace up`: its `down`
    takes away the file that told Prefect's settings of its home.

    Raises:
        BackupError: it is one in memory, or of an unknown kind.
    """
    from prefect.settings import get_current_settings

    everything = get_current_settings()
    settings = everything.server.database
    assert settings.connection_url is not None  # noqa: S101 # Prefect fills it
    told = "home" in everything.model_fields_set or "connection_url" in settings.model_fields_set
    if not told:
        return Sqlite(log_file(local_dir).with_name("prefect.db"))
    url = make_url(settings.connection_url.get_secret_value())
    kind = url.get_backend_name()
    if kind == "sqlite" and url.database and ":memory:" not in url.database:
        return Sqlite(Path(url.database.removeprefix("file:")))
    if kind == "postgresql":
        args = settings.sqlalchemy.connect_args
        return of_url(url, search_path=args.search_path, tls=dict(args.tls))
    raise BackupError(
        f"The Prefect server's database is no file and no Postgres: {url.render_as_string()}.",
        where=f"{URL_VARIABLE}, and PREFECT_HOME",
        fix=f"set {URL_VARIABLE} to the one that the server has",
    )


def of_url(url: URL, search_path: str | None, tls: dict[str, object]) -> Postgres:
    """Read what SQLAlchemy and asyncpg would do with the URL."""

    def asked(name: str) -> str | None:
        value = url.query.get(name)
        return value if isinstance(value, str) or value is None else value[0]

    host = asked("host") or url.host or "localhost"
    if asked("port") is not None or (asked("host") and ":" in host and not host.startswith("/")):
        host, _, port = host.partition(":")
        port = asked("port") or port
    else:
        port = str(url.port or 5432)
    mode = asked("ssl") or asked("sslmode")
    variables = {
        "PGHOST": host,
        "PGPORT": port,
        "PGUSER": url.username or asked("user"),
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
        asked("password") or (str(url.password) if url.password else None),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
