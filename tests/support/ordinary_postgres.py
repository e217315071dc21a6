"""A Postgres as a distribution ships it, with passwords and with the extensions that Prefect needs.

The embedded one has no `pg_trgm`, and trusts whoever reaches its socket.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest

PASSWORD = "s@cret-word"
# Made by the packages of Debian and Fedora; Postgres does not run as root.
SYSTEM_USER = "postgres"


@dataclass
class OrdinaryPostgres:
    """Where it answers, and where its programs are."""

    programs: Path
    folder: Path
    port: int

    def url(self, database: str) -> str:
        """As Prefect's settings name it, through the socket."""
        place = f"host={self.folder}&port={self.port}"
        return f"postgresql+asyncpg://prefect:s%40cret-word@/{database}?{place}"

    def query(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with closing(
            psycopg2.connect(
                host=str(self.folder),
                port=self.port,
                user="prefect",
                password=PASSWORD,
                dbname=database,
            )
        ) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []


@contextmanager
def ordinary_postgres() -> Iterator[OrdinaryPostgres]:
    """One that runs while the context lasts; skips the test where there is none to run."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    root = os.geteuid() == 0
    if not found or (root and shutil.which("runuser") is None):
        pytest.skip("needs a Postgres with pg_trgm: apt-get install postgresql")
    programs = found[-1].parent
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A socket's path is short, and the folders of pytest are closed to the system user.
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        if root:
            for path in (folder, folder / "password"):
                shutil.chown(path, SYSTEM_USER)

        def run(program: str, *arguments: str) -> None:
            as_user = ["runuser", "-u", SYSTEM_USER, "--"] if root else []
            # In a file: the server that pg_ctl leaves behind would keep a pipe open.
            with (folder / "output").open("ab") as output:
                done = subprocess.run(
                    [*as_user, str(programs / program), "-D", str(folder / "data"), *arguments],
                    cwd=folder, stdout=output, stderr=output, check=False,
                )  # fmt: skip
            assert done.returncode == 0, (folder / "output").read_text()

        run("initdb", "--auth=scram-sha-256", "--username=prefect", "--encoding=UTF8",
            f"--pwfile={folder / 'password'}", "--no-sync")  # fmt: skip
        run("pg_ctl", "start", "--wait", "--log", str(folder / "log"),
            "--options", f"-p {port} -k {folder} -c listen_addresses='' -c fsync=off")  # fmt: skip
        try:
            yield OrdinaryPostgres(programs, folder, port)
        finally:
            run("pg_ctl", "stop", "--mode=immediate")
