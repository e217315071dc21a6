"""Backups of Prefect's database: made while runs write, restored into a server that starts."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy.engine import make_url

from infrastructure.operate.backup import archive
from infrastructure.operate.backup.database import parse_url
from infrastructure.operate.backup.postgres_programs import find_program
from prefect_flows.core.errors import BackupError
from tests.support.ordinary_postgres import ordinary_postgres
from tests.support.prefect_servers import server
from tests.support.project import Project

PASSWORD = "kept as it was"
FILL = f"""
from prefect import flow
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client

@flow
def counted(n: int = 0) -> int:
    return n

Secret(value={{"password": "{PASSWORD}"}}).save("warehouse")
with get_client(sync_client=True) as client:
    client.create_deployment(client.create_flow(counted), name="counted")
counted(1)
"""
WRITE = """
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Completed

@flow
def counted(n: int = 0) -> int:
    return n

with get_client(sync_client=True) as client:
    while True:
        client.create_flow_run(counted, state=Completed())
        print("one more", flush=True)
"""
LOOK = """
import json
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print(json.dumps({
        "secret": Secret.load("warehouse").get(),
        "deployments": [deployment.name for deployment in client.read_deployments()],
        "runs": client.count_flow_runs(),
    }))
"""


def backup(project: Project, *arguments: str, **environment: str):
    return project.run("-m", "infrastructure.cli", "backup", *arguments, **environment)


def made(project: Project, folder: Path, **environment: str) -> Path:
    done = backup(project, "create", "--to", str(folder), **environment)
    assert done.returncode == 0, done.stderr
    return max(folder.glob("prefect-backup-*"))


def manifest_of(file: Path) -> dict[str, Any]:
    with tarfile.open(file) as packed:
        return json.load(packed.extractfile(archive.MANIFEST))


def looked(project: Project, **environment: str) -> dict[str, Any]:
    done = project.run("-c", LOOK, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fill(project: Project, **environment: str) -> None:
    done = project.run("-c", FILL, **environment)
    assert done.returncode == 0, done.stderr


@contextmanager
def writing(project: Project, **environment: str) -> Iterator[None]:
    """Flow runs are written all the while."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE],
        cwd=project.folder, env=project.variables(**environment), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert writer.stdout.readline() == "one more\n"
        yield
        assert writer.poll() is None, "the writer ended by itself"
    finally:
        writer.kill()
        writer.communicate()


@pytest.mark.operations
def test_sqlite_comes_back_as_it_was_in_the_middle_of_runs(
    own_project: Project, tmp_path: Path
) -> None:
    project = own_project
    fill(project)
    with writing(project):
        file = made(project, tmp_path / "backups")
        time.sleep(0.5)
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "backups").stat().st_mode & 0o777 == 0o700
    rows = manifest_of(file)["rows"]
    later = looked(project)
    assert 2 <= rows["flow_run"] < later["runs"]

    # It is refused while a server runs, whatever is asked for.
    running = backup(project, "restore", str(file), "--replace")
    assert running.returncode == 2
    assert "A Prefect server has the database open" in running.stderr

    assert project.run("-m", "infrastructure.cli", "down").returncode == 0
    full = backup(project, "restore", str(file))
    assert full.returncode == 2
    assert "The database is not empty." in full.stderr
    assert "--replace keeps it under another name" in full.stderr

    home = project.local / "prefect"
    for lost in home.glob("prefect.db*"):
        lost.unlink()
    done = backup(project, "restore", str(file))
    assert done.returncode == 0, done.stderr
    assert (home / "prefect.db").stat().st_mode & 0o777 == 0o600
    assert project.run("-m", "infrastructure.cli", "up").returncode == 0
    found = looked(project)
    assert found["secret"] == {"password": PASSWORD}
    assert found["deployments"] == ["counted"]
    assert found["runs"] == rows["flow_run"]

    # What is replaced is kept, and is a database still.
    assert project.run("-m", "infrastructure.cli", "down").returncode == 0
    done = backup(project, "restore", str(file), "--replace")
    assert done.returncode == 0, done.stderr
    (kept,) = home.glob("prefect.db.before-restore-*")
    assert f"What was there is kept: {kept}" in done.stdout
    runs = sqlite3.connect(kept).execute("select count(*) from flow_run").fetchone()
    assert runs == (rows["flow_run"],)
    assert project.run("-m", "infrastructure.cli", "up").returncode == 0


@pytest.mark.operations
def test_a_backup_that_is_not_fit_is_refused(own_project: Project, tmp_path: Path) -> None:
    project = own_project
    home = {"PREFECT_HOME": str(tmp_path / "empty")}
    file = made(project, tmp_path)

    def refused(file: Path, **environment: str) -> str:
        done = backup(project, "restore", str(file), **(home | environment))
        assert done.returncode == 2, done.stdout
        assert not (tmp_path / "empty" / "prefect.db").exists()
        return done.stderr

    assert "There is no such backup." in refused(tmp_path / "none.tar.gz")

    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bit.tar.gz").write_bytes(data)
    (tmp_path / "half.tar.gz").write_bytes(file.read_bytes()[: len(data) // 2])
    for damaged in ("bit", "half"):
        assert "The backup is damaged, or not a Millrace backup" in refused(
            tmp_path / f"{damaged}.tar.gz"
        )

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    manifest, database = archive.read(file, scratch)
    (tmp_path / "other").mkdir()
    newer = archive.write(tmp_path / "other", replace(manifest, prefect="99.0.0"), database)
    assert "The backup was made by Prefect 99.0.0, and this is" in refused(newer)
    of_postgres = archive.write(tmp_path / "other", replace(manifest, kind="postgres"), database)
    assert "The backup is of postgres; the server here has" in refused(of_postgres)
    lying = {
        "rows": {**manifest.rows, "flow_run": 12345},
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    of_less = archive.write(tmp_path / "other", replace(manifest, **lying), database)
    assert "other rows than the backup" in refused(of_less)

    # A server that would start here has another key.
    another = {"PREFECT_SERVER_ENCRYPTION_KEY": Fernet.generate_key().decode()}
    said = refused(file, **another)
    assert re.search(r"(\d+) of \1 blocks cannot be decrypted", said)
    assert "set PREFECT_SERVER_ENCRYPTION_KEY to that server's key" in said
    assert another["PREFECT_SERVER_ENCRYPTION_KEY"] not in said
    done = backup(project, "restore", str(file), "--without-secrets", **(home | another))
    assert done.returncode == 0, done.stderr


def test_a_manifest_that_was_changed_is_seen(other_project: Project, tmp_path: Path) -> None:
    file = made(other_project, tmp_path)
    changed = tmp_path / "changed.tar.gz"
    with tarfile.open(file) as old, tarfile.open(changed, "w:gz") as new:
        for member in old:
            data = (
                old.extractfile(member).read().replace(b'"key": "database"', b'"key": "databasf"')
            )
            new.addfile(member, io.BytesIO(data))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(BackupError, match=r"checksum of manifest\.json"):
        archive.read(changed, tmp_path / "scratch")


def test_keep_removes_the_oldest_of_its_own_only(other_project: Project, tmp_path: Path) -> None:
    old = [f"prefect-backup-2025010{day}T000000Z-sqlite.tar.gz" for day in (1, 2, 3)]
    other = ["notes.txt", "prefect-backup-20250101T000000Z-sqlite.tar.gz.copy", "prefect.db"]
    for name in (*old, *other):
        (tmp_path / name).touch()
    done = backup(other_project, "create", "--to", str(tmp_path), "--keep", "2")
    assert done.returncode == 0, done.stderr
    left = {file.name for file in tmp_path.iterdir()}
    (new,) = left - {*old, *other}
    assert left == {old[2], *other, new}
    assert f"removed {old[0]}" in done.stdout


def test_a_missing_database_is_not_created(other_project: Project, tmp_path: Path) -> None:
    done = backup(other_project, "create", "--to", str(tmp_path), PREFECT_HOME=str(tmp_path / "no"))
    assert done.returncode == 2
    assert "The Prefect server's database does not exist." in done.stderr
    assert not list(tmp_path.glob("*prefect-backup*"))


@pytest.fixture
def major(project: Project) -> int:
    """Of the embedded Postgres, whose programs lie beside it."""
    return int(project.query("show server_version_num")[0][0]) // 10000


def recording(folder: Path, programs: Path) -> Path:
    """A folder for the PATH: Postgres's programs, which write down how they were called."""
    folder.mkdir()
    for name in ("pg_dump", "pg_restore"):
        file = folder / name
        file.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n'
            f'[ "$1" = --version ] || echo "$PGPASSWORD" >> {folder}/passwords\n'
            f'exec {programs / name} "$@"\n'
        )
        file.chmod(0o755)
    return folder


@pytest.mark.operations
@pytest.mark.nightly
def test_postgres_comes_back_as_it_was_in_the_middle_of_runs(
    own_project: Project, tmp_path: Path
) -> None:
    project, log = own_project, tmp_path / "server.log"
    with ordinary_postgres() as postgres:
        recorded = recording(tmp_path / "programs", postgres.programs)
        settings = {
            "PREFECT_HOME": str(tmp_path / "home"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres.url("prefect"),
            "PATH": f"{recorded}:/usr/bin:/bin",
        }
        postgres.query("create database prefect")
        with server(project, log, **settings) as url:
            fill(project, PREFECT_API_URL=url)
            with writing(project, PREFECT_API_URL=url):
                file = made(project, tmp_path / "backups", **settings)
                time.sleep(0.5)
            rows = manifest_of(file)["rows"]
            assert 2 <= rows["flow_run"] < looked(project, PREFECT_API_URL=url)["runs"]
            running = backup(project, "restore", str(file), "--replace", **settings)
            assert running.returncode == 2
            assert "connection(s) to the database are open" in running.stderr
            assert "a Prefect server runs on it" in running.stderr

        full = backup(project, "restore", str(file), **settings)
        assert full.returncode == 2
        assert "The database is not empty." in full.stderr

        postgres.query("drop database prefect")
        done = backup(project, "restore", str(file), **settings)
        assert done.returncode == 0, done.stderr
        with server(project, log, **settings) as url:
            found = looked(project, PREFECT_API_URL=url)
        assert found["secret"] == {"password": PASSWORD}
        assert found["deployments"] == ["counted"]
        assert found["runs"] == rows["flow_run"]

        done = backup(project, "restore", str(file), "--replace", **settings)
        assert done.returncode == 0, done.stderr
        kept = re.search(r"What was there is kept: (\S+)", done.stdout).group(1)
        assert postgres.query("select count(*) from flow_run", kept) == [(rows["flow_run"],)]
        names = {name for (name,) in postgres.query("select datname from pg_database")}
        assert not [name for name in names if name.startswith("prefect_restored")]

        wrong = settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"].replace("s%40cret", "wrong")
        done = backup(
            project, "create", "--to", str(tmp_path),
            **(settings | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": wrong}),
        )  # fmt: skip
        assert done.returncode == 2
        assert "password authentication failed" in done.stderr
        assert "wrong-word" not in done.stderr

    calls = (recorded / "calls").read_text()
    assert "pg_dump --no-password --format=custom" in calls
    assert "cret-word" not in calls
    assert set((recorded / "passwords").read_text().split()) == {"s@cret-word"}


@pytest.mark.operations
def test_a_restore_that_fails_leaves_the_database_as_it_was(
    own_project: Project, tmp_path: Path, major: int
) -> None:
    project = own_project
    project.query("create database half")
    project.query("create table flow_run (id int)", "half")
    project.query("insert into flow_run values (1)", "half")
    url = f"postgresql+asyncpg://postgres@/half?host={project.dev['host']}"
    (tmp_path / "no dump").write_text("no dump")
    for day, version, said in (
        (1, f"{major}.0", "pg_restore failed:"),
        (2, "99.1", f"The backup is of Postgres 99; this server is of version {major}."),
    ):
        manifest = archive.Manifest(
            "postgres",
            f"2026-11-0{day}T00:00:00+00:00",
            "3.8.8",
            "x",
            version,
            {},
            "database",
            None,
        )
        file = archive.write(tmp_path, manifest, tmp_path / "no dump")
        done = backup(
            project, "restore", str(file), "--replace", PREFECT_SERVER_DATABASE_CONNECTION_URL=url
        )
        assert done.returncode == 2
        assert said in done.stderr
    assert project.query("select id from flow_run", "half") == [(1,)]
    names = {name for (name,) in project.query("select datname from pg_database")}
    assert not [name for name in names if name.startswith(("half_restored", "half_before"))]


def test_a_program_of_another_version_is_not_taken(major: int) -> None:
    with pytest.raises(BackupError) as raised:
        find_program("pg_dump", 12)
    assert "There is no pg_dump of version 12, which the server has (" in str(raised.value)
    assert f"is of version {major}" in str(raised.value)
    assert "apt-get install postgresql-client-12" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "variables", "password"),
    [
        ("postgresql+asyncpg://u:p%40ss@db:6543/prefect",
         {"PGHOST": "db", "PGPORT": "6543", "PGUSER": "u", "PGDATABASE": "prefect"}, "p@ss"),
        ("postgresql+asyncpg://u@/prefect?host=/run/pg&ssl=require",
         {"PGHOST": "/run/pg", "PGPORT": "5432", "PGUSER": "u", "PGDATABASE": "prefect",
          "PGSSLMODE": "require"}, None),
        ("postgresql+asyncpg://u@/prefect?host=db:6543",
         {"PGHOST": "db", "PGPORT": "6543", "PGUSER": "u", "PGDATABASE": "prefect"}, None),
    ],
)  # fmt: skip
def test_libpq_connects_as_asyncpg_does(
    url: str, variables: Mapping[str, str], password: str | None
) -> None:
    database = parse_url(make_url(url), search_path=None, tls={})
    assert database.variables == variables
    assert database.password == password
    assert "p@ss" not in repr(database)
