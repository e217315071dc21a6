"""The two servers of this machine: up, status, down, and what stands in their way."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import psycopg2
import pytest

from infrastructure.local import postgres
from prefect_flows.core.errors import ServerError
from tests.support.project import PATIENCE, REPOSITORY, Project, copy_of_the_project, stop_servers


def local(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.run("-m", "infrastructure.cli", *arguments)


def test_up_again_finds_both_running(project: Project) -> None:
    before = project.server
    done = local(project, "up")
    assert done.returncode == 0, done.stderr
    assert project.server == before
    assert local(project, "status").returncode == 0


def test_the_server_has_registered_blocks_without_importing_their_packages(
    project: Project,
) -> None:
    types = {found["slug"] for found in project.asked("block_types", limit=200)}
    assert {"dbt-cli-profile", "gcp-credentials", "sqlalchemy-connector"} <= types
    # 200 MB; with all packages 590 MB.
    assert psutil.Process(project.server["pid"]).memory_info().rss < 400e6


def test_a_running_server_does_not_move_to_another_port(project: Project) -> None:
    done = local(project, "up", "--port", "1")
    assert done.returncode == 2
    assert f"already runs, on port {project.server['port']}" in done.stderr


@pytest.mark.parametrize("damage", ["", '{"pid": 1', "[]", '{"pid": -1, "port": 4200}'])
def test_damaged_files_of_running_servers_are_written_again(project: Project, damage: str) -> None:
    before, outputs = project.server, project.dev
    file = project.local / "prefect" / "millrace-server.json"
    file.write_text(damage)
    (project.local / "terraform-outputs.json").write_text(damage)

    status = local(project, "status")

    assert status.returncode == 0, status.stdout + status.stderr
    (aside,) = file.parent.glob("millrace-server.json.damaged-*")
    assert str(aside) in status.stderr
    aside.unlink()
    assert project.server == before, "it was found among the processes"
    (project.folder / "prefect.toml").write_text("")
    up = local(project, "up")
    assert up.returncode == 0, up.stderr
    assert (project.server, project.dev) == (before, outputs)
    assert "api" in (project.folder / "prefect.toml").read_text()


def test_a_full_disk_is_reported_and_nothing_stays(tmp_path: Path) -> None:
    """A limit on the size of files stops a write as a full disk does."""
    done = subprocess.run(
        # Python would cut off the bytecode that it writes, too.
        [sys.executable, "-B", "-m", "infrastructure.cli", "up"],
        env=os.environ | {"MILLRACE_LOCAL_DIR": str(tmp_path / "local")},
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "ServerError: The folder cannot be written to: File too large." in done.stderr
    assert "MILLRACE_LOCAL_DIR" in done.stderr
    assert list((tmp_path / "local").iterdir()) == []


def test_a_prefect_toml_of_somebody_else_stays(tmp_path: Path) -> None:
    project = Project(tmp_path / "clone")
    project.folder.mkdir()
    for package in ("prefect_flows", "infrastructure"):
        (project.folder / package).symlink_to(REPOSITORY / package)
    file = project.folder / "prefect.toml"
    file.write_text('[api]\nurl = "https://prefect.example.com/api"\n')

    up, down = local(project, "up"), local(project, "down")

    assert up.returncode == 2
    assert "`millrace up` did not write prefect.toml, and does not replace it." in up.stderr
    assert f"mv {file} {file}.own" in up.stderr
    assert down.returncode == 0, down.stderr
    assert "prefect.example.com" in file.read_text()
    assert not (project.local / "postgres").exists()


@pytest.mark.parametrize("says", [None, "useradd: cannot lock /etc/passwd"])
def test_a_useradd_that_fails_or_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str | None
) -> None:
    # GIVEN root on a machine without the user that Postgres runs as
    def unknown(name: str) -> None:
        raise KeyError(name)

    programs = tmp_path / "sbin"
    programs.mkdir()
    if says is not None:
        (programs / "useradd").write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
        (programs / "useradd").chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    monkeypatch.setenv("PATH", str(programs))

    with pytest.raises(ServerError, match="system user to run it as cannot be made") as error:
        postgres.start(tmp_path / ".local")

    assert (says or "useradd: No such file or directory") in error.value.what
    assert error.value.where == f"PATH={programs}"
    assert "/usr/sbin" in error.value.fix
    assert "postmaster.pid" not in str(error.value)


def test_the_ui_calls_its_own_port(project: Project) -> None:
    port = project.server["port"]
    settings = httpx.get(f"http://127.0.0.1:{port}/ui-settings", timeout=PATIENCE).json()
    assert settings["api_url"] == f"http://127.0.0.1:{port}/api"
    variables = psutil.Process(project.server["pid"]).environ()
    assert variables["PREFECT_UI_URL"] == f"http://127.0.0.1:{port}"


def test_postgres_is_closed_to_the_network_and_to_other_users(project: Project) -> None:
    dev = project.dev
    assert Path(dev["host"]).stat().st_mode & 0o777 == 0o700
    postmaster = int((project.local / "postgres" / "postmaster.pid").read_text().split()[0])
    assert psutil.Process(postmaster).net_connections("tcp") == []


def test_the_home_of_the_server_is_private(project: Project) -> None:
    assert (project.local / "prefect").stat().st_mode & 0o777 == 0o700


@pytest.mark.operations
def test_down_stops_what_was_started_and_keeps_what_it_held(own_project: Project) -> None:
    before = own_project.server
    process = psutil.Process(before["pid"])
    own_project.query("create table kept as select 42 as answer")

    down = local(own_project, "down")

    assert down.returncode == 0, down.stderr
    assert not process.is_running()
    assert not (own_project.folder / "prefect.toml").exists()
    with pytest.raises(psycopg2.OperationalError):
        own_project.query("select 1")
    status = local(own_project, "status")
    assert status.returncode == 1
    assert "Postgres: not running" in status.stdout
    assert "Prefect server: not running" in status.stdout
    assert "was not running" in local(own_project, "down").stdout

    assert local(own_project, "up").returncode == 0
    assert own_project.query("select answer from kept") == [(42,)]
    assert own_project.server["port"] == before["port"], "links to the server stay valid"


@pytest.mark.nightly
@pytest.mark.operations
def test_a_server_that_was_killed_is_started_anew(own_project: Project) -> None:
    process = psutil.Process(own_project.server["pid"])
    for victim in [*process.children(recursive=True), process]:
        victim.kill()
    process.wait(PATIENCE)

    assert local(own_project, "status").returncode == 1
    assert local(own_project, "up").returncode == 0
    assert local(own_project, "status").returncode == 0


@pytest.mark.operations
def test_another_port_is_found_when_the_usual_one_is_taken(
    project: Project, own_project: Project
) -> None:
    ports = {project.server["port"], own_project.server["port"]}
    assert len(ports) == 2


# Another program takes the port seconds before the server listens.
LOSES_ITS_PORT = """
import pathlib, socket
from infrastructure.local import prefect_server

folder, local = pathlib.Path("."), pathlib.Path(".local").absolute()
prefect_server.DEFAULT_PORT = prefect_server._any_free_port()
server = prefect_server.launch(folder, local)
with socket.create_server((prefect_server.HOST, server.port)):
    prefect_server.psutil.wait_procs([server.process()])
# By now the port is free again.
print(prefect_server.wait_until_healthy(server, folder, local).port)
"""


@pytest.mark.nightly
@pytest.mark.operations
def test_a_port_that_is_lost_while_the_server_starts_is_exchanged(
    tmp_path: Path, prefect_database: Path
) -> None:
    project = copy_of_the_project(tmp_path / "millrace", prefect_database)
    try:
        done = project.run("-c", LOSES_ITS_PORT)
        assert done.returncode == 0, done.stderr
        found = done.stdout.strip()
        assert f"127.0.0.1:{found}/api" in (project.folder / "prefect.toml").read_text()
        assert httpx.get(f"http://127.0.0.1:{found}/api/health", timeout=PATIENCE).is_success
    finally:
        stop_servers(project)


# Linux shows no command line of a new program for a moment: as here, when it is read first.
STARTS_ONE = """
import pathlib, psutil
from infrastructure.local import prefect_server

asked = set()
read = psutil.Process.cmdline

def cmdline(process):
    is_first = process.pid not in asked
    asked.add(process.pid)
    return [] if is_first else read(process)

psutil.Process.cmdline = cmdline
prefect_server.PrefectServer.command = property(lambda self: ["-c", "import time; time.sleep(600)"])
server = prefect_server.launch(pathlib.Path("."), pathlib.Path(".local").absolute())
found = server.process()
psutil.Process(server.pid).kill()
assert found is not None
"""


def test_a_server_that_was_just_started_is_not_taken_for_one_that_ended(tmp_path: Path) -> None:
    project = Project(tmp_path / "clone")
    project.folder.mkdir()
    for package in ("prefect_flows", "infrastructure"):
        (project.folder / package).symlink_to(REPOSITORY / package)
    done = project.run("-c", STARTS_ONE)
    assert done.returncode == 0, done.stderr


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(tmp_path: Path) -> None:
    project = Project(tmp_path / "millrace")
    shutil.copytree(REPOSITORY / "infrastructure", project.folder / "infrastructure")
    shutil.copytree(REPOSITORY / "prefect_flows", project.folder / "prefect_flows")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = local(project, "up", "--port", str(port))
    assert done.returncode == 2
    assert f"ServerError: Port {port} is taken by another program." in done.stderr
    assert not (project.local / "postgres").exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "millrace")
    # A file in the folder's place stops root too, whom permissions would not.
    project.local.touch()
    done = local(project, "up")
    assert done.returncode == 2
    assert "ServerError: The folder cannot be written to: File exists." in done.stderr
    assert f"where: {project.local}" in done.stderr


def test_a_path_with_a_space_is_refused_in_words(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "my projects" / "millrace")
    try:
        done = local(project, "up")
    finally:
        stop_servers(project)
    assert done.returncode == 2
    assert "cannot lie in a folder whose path has a space in it" in done.stderr


@pytest.mark.nightly
@pytest.mark.operations
def test_a_path_too_long_for_a_socket_works(tmp_path: Path, prefect_database: Path) -> None:
    project = copy_of_the_project(tmp_path / ("long-" * 15) / "millrace", prefect_database)
    try:
        done = local(project, "up")
        assert done.returncode == 0, done.stdout + done.stderr
        socket_folder = Path(project.dev["host"])
        assert not socket_folder.is_relative_to(project.folder)
        assert socket_folder.stat().st_mode & 0o777 == 0o700
        assert project.query("select 1") == [(1,)]
    finally:
        stop_servers(project)
