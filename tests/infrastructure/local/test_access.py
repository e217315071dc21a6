"""Whom the local Prefect server lets in: its own user, and pages of its own origin."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from infrastructure.local import prefect_server
from prefect_flows.core.errors import ServerError
from tests.support.browsers import log_in
from tests.support.project import PATIENCE, Project, serving, until

EVIL = {"Origin": "https://evil.example", "Host": "evil.example"}
# The health of a server is no secret; Docker, Kubernetes and `millrace up` ask for it.
PUBLIC = {"/health", "/ready"}
ID = "00000000-0000-0000-0000-000000000000"


def local(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return project.run("-m", "infrastructure.cli", *arguments)


def test_nothing_of_the_api_is_for_a_page_of_another_origin_or_another_user(
    project: Project,
) -> None:
    # GIVEN every route of the API, which its documentation lists for everybody
    schema = httpx.get(
        f"{project.api_url.removesuffix('/api')}/openapi.json", timeout=PATIENCE
    ).json()
    routes = [(path, method.upper()) for path, item in schema["paths"].items() for method in item]
    assert len(routes) > 150

    answers = {}
    with httpx.Client(base_url=project.api_url, headers=EVIL, timeout=60) as somebody:
        for path, method in routes:
            url = path.replace("{", "").replace("}", "")
            # As a form of a page would send it: the browser asks nobody beforehand.
            headers = {"Content-Type": "text/plain"}
            answer = somebody.request(method, url, content="{}", headers=headers)
            answers[method, path] = answer.status_code
            assert answer.headers.get("Access-Control-Allow-Origin") in (None, "*")
            if answer.status_code == httpx.codes.OK:
                assert "Access-Control-Allow-Origin" not in answer.headers

    let_in = {path for (_, path), status in answers.items() if status not in (401, 403)}
    assert let_in == PUBLIC


def test_a_page_of_another_origin_may_not_ask(project: Project) -> None:
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    url = f"{project.api_url}/block_documents/filter"
    refused = httpx.options(url, headers=preflight | {"Origin": "https://evil.example"})
    assert refused.status_code == httpx.codes.BAD_REQUEST
    assert "Access-Control-Allow-Origin" not in refused.headers
    for own in (f"http://127.0.0.1:{project.server['port']}",
                f"http://localhost:{project.server['port']}"):  # fmt: skip
        allowed = httpx.options(url, headers=preflight | {"Origin": own})
        assert allowed.headers["Access-Control-Allow-Origin"] == own


def test_the_password_without_a_token_changes_nothing(project: Project) -> None:
    user, password = project.auth_string.split(":")
    url = f"{project.api_url}/variables/"
    forged = httpx.post(
        url, json={"name": "forged", "value": "1"}, auth=(user, password), timeout=PATIENCE
    )
    assert forged.status_code == httpx.codes.FORBIDDEN
    assert project.http.get("/variables/name/forged").status_code == httpx.codes.NOT_FOUND


@pytest.mark.parametrize("path", [
    "events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled",
    "work_pools/default-pool/workers/connect",
])  # fmt: skip
@pytest.mark.parametrize("token", [None, "millrace:guessed"])
def test_a_socket_asks_for_the_password_too(project: Project, path: str, token: str | None) -> None:
    address = f"{project.api_url.replace('http', 'ws', 1)}/{path}"
    with pytest.raises((ConnectionClosed, InvalidStatus)):
        connect(address).recv(PATIENCE)
    with connect(address, subprotocols=["prefect"]) as socket:  # type: ignore[list-item]
        socket.send(json.dumps({"type": "auth", "token": token}))
        with pytest.raises(ConnectionClosed):
            socket.recv(PATIENCE)


def test_the_password_is_in_two_files_that_their_owner_alone_reads(project: Project) -> None:
    _, password = project.auth_string.split(":")
    assert len(password) == 48
    files = {project.folder / "prefect.toml", project.local / "prefect" / "auth-string"}
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o600
    found = {
        file
        for folder in (project.folder, project.local, project.local / "prefect")
        for file in folder.iterdir()
        if file.is_file() and password.encode() in file.read_bytes()
    }
    assert found == files
    process = psutil.Process(project.server["pid"])
    for each in (process, *process.children(recursive=True)):
        assert password not in " ".join(each.cmdline())
    for command in ("up", "status"):
        done = local(project, command)
        assert password not in done.stdout + done.stderr
        assert f"cat {project.local / 'prefect' / 'auth-string'}" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_finds_no_password(project: Project) -> None:
    def as_nobody(*command: str) -> int:
        return subprocess.run(
            command, user="nobody", group="nogroup", extra_groups=[], capture_output=True, cwd="/",
            check=False,
        ).returncode  # fmt: skip

    # GIVEN a folder that others may enter, as a clone of root's is
    (project.folder / "for_all.txt").write_text("x")
    assert as_nobody("cat", str(project.folder / "for_all.txt")) == 0
    pid = project.server["pid"]
    assert as_nobody("cat", f"/proc/{pid}/cmdline") == 0

    for file in (
        project.folder / "prefect.toml",
        project.local / "prefect" / "auth-string",
        project.local / "prefect" / "prefect.db",
        Path(f"/proc/{pid}/environ"),
    ):
        assert file.exists()
        assert as_nobody("cat", str(file)) != 0, file


# Imports Prefect as any program of a person does.
ASK = """
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    client.read_flows(limit=1)
"""


@contextmanager
def another_api(seen: list[str | None]) -> Iterator[str]:
    """A server that keeps the credentials that it is sent, and knows nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(404)
            self.end_headers()

        do_GET = do_POST = answer  # noqa: N815 (http.server's names)

    with serving(Handler) as url:
        yield f"{url}/api"


@pytest.mark.parametrize("key", [None, "made-up-key"])
def test_another_server_is_not_sent_the_password(project: Project, key: str | None) -> None:
    # GIVEN a program that starts as a person starts it: Prefect calls the plugin on import
    seen: list[str | None] = []
    given = {"PREFECT_API_KEY": key} if key else {}
    with another_api(seen) as url:
        done = subprocess.run(
            [sys.executable, "-c", ASK], capture_output=True, cwd=project.folder,
            env=project.variables(PREFECT_API_URL=url, **given), check=False,
        )  # fmt: skip
    assert done.returncode != 0
    assert seen
    assert set(seen) == {f"Bearer {key}" if key else None}


def test_a_server_is_sent_what_was_given_for_it(project: Project) -> None:
    seen: list[str | None] = []
    with another_api(seen) as url:
        project.run("-c", ASK, PREFECT_API_URL=url, PREFECT_API_AUTH_STRING="their:own")
    assert set(seen) == {"Basic dGhlaXI6b3du"}
    # The local address, given by hand, is the local server.
    for address in (project.api_url, f"{project.api_url}/"):
        done = project.run("-c", ASK, PREFECT_API_URL=address)
        assert done.returncode == 0, done.stderr


def test_a_password_that_is_wrong_is_named(project: Project) -> None:
    done = project.setup("--check", PREFECT_API_AUTH_STRING="millrace:wrong")
    assert done.returncode == 2
    assert "PrefectUnreachable: The Prefect API refuses: 401 Unauthorized" in done.stderr
    assert "PREFECT_API_AUTH_STRING" in done.stderr
    assert "wrong" not in done.stderr


def test_what_people_added_to_prefect_toml_stays(project: Project) -> None:
    file = project.folder / "prefect.toml"
    before = file.read_text()
    edited = before.replace("heartbeat_frequency = 60", "heartbeat_frequency = 30")
    edited = edited.replace(project.auth_string, "millrace:old")
    file.write_text(edited + '\n[logging]\n# mine\nlevel = "INFO"\n')
    file.chmod(0o644)
    try:
        assert local(project, "up").returncode == 0
        assert file.stat().st_mode & 0o777 == 0o600
        after = file.read_text()
        assert '[logging]\n# mine\nlevel = "INFO"\n' in after
        assert "heartbeat_frequency = 30" in after
        assert f'auth_string = "{project.auth_string}"' in after
    finally:
        file.write_text(before)


def test_down_leaves_what_people_added_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "prefect.toml"
    ours = prefect_server.PrefectServer(0, 1)
    (tmp_path / ".local" / "prefect").mkdir(parents=True)
    prefect_server._write_client_settings(tmp_path, tmp_path / ".local", ours)
    prefect_server.stop(tmp_path, tmp_path / ".local")
    assert not file.exists()

    prefect_server._write_client_settings(tmp_path, tmp_path / ".local", ours)
    file.write_text(file.read_text() + '\n[logging]\nlevel = "INFO"\n')
    prefect_server.stop(tmp_path, tmp_path / ".local")
    left = file.read_text()
    assert left.startswith(prefect_server.HEADER)
    assert left.removeprefix(prefect_server.HEADER).strip() == '[logging]\nlevel = "INFO"'


def test_a_prefect_toml_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "prefect.toml").write_text(f"{prefect_server.HEADER}[api\n")
    with pytest.raises(ServerError, match=r"prefect\.toml is not valid TOML: .* line 3"):
        prefect_server.stop(tmp_path, tmp_path / ".local")


def test_a_password_that_was_changed_under_a_running_server_is_named(project: Project) -> None:
    file = project.local / "prefect" / "auth-string"
    before = file.read_text()
    try:
        file.write_text("millrace:changed\n")
        done = local(project, "up")
        assert done.returncode == 2
        assert "started with another password than the file has now" in done.stderr
        assert str(file) in done.stderr
        assert "millrace down && " in done.stderr
        file.write_text("no password\n")
        done = local(project, "up")
        assert done.returncode == 2
        assert "is not of the form user:password" in done.stderr
        assert "no password" not in done.stderr
    finally:
        file.write_text(before)
    assert local(project, "up").returncode == 0


@pytest.mark.operations
def test_a_server_of_an_older_version_is_not_taken_for_a_safe_one(
    tmp_path: Path, prefect_database: Path
) -> None:
    # GIVEN a server as older versions started it
    project = Project(tmp_path / "clone")
    project.folder.mkdir()
    for package in ("prefect_flows", "infrastructure"):
        (project.folder / package).symlink_to(Path(prefect_server.__file__).parents[2] / package)
    home = project.local / "prefect"
    home.mkdir(parents=True)
    (home / "prefect.db").write_bytes(prefect_database.read_bytes())
    old = prefect_server.PrefectServer(0, prefect_server._any_free_port())
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *old.command], stdout=log, stderr=log, start_new_session=True,
            cwd=home, env=project.variables(PREFECT_HOME=str(home)),
        )  # fmt: skip
    (home / "millrace-server.json").write_text(json.dumps({"pid": process.pid, "port": old.port}))
    try:
        # Linux shows an empty command line for a moment after a program has started.
        until(lambda: prefect_server.find_server(project.local))
        running = prefect_server.launch(project.folder, project.local)
        with pytest.raises(ServerError, match="runs without a password") as error:
            prefect_server.wait_until_healthy(running, project.folder, project.local)
        assert error.value.fix == prefect_server.RESTART_COMMANDS
        assert "It asks for no password" in local(project, "status").stdout
        assert not (project.folder / "prefect.toml").exists()
    finally:
        assert prefect_server.stop(project.folder, project.local)
        process.wait()


def test_a_person_logs_in_with_what_the_file_has(browser: Any, project: Project) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{project.api_url.removesuffix('/api')}/blocks")
    log_in(page, project.auth_string)
    page.get_by_text("dbt-cli-profile-dev").first.wait_for(timeout=60_000)
    page.close()


def test_a_page_of_another_origin_reads_and_starts_nothing(browser: Any, project: Project) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>evil</title>")

    ask = """async ([url, options]) => {
        try { const answer = await fetch(url, options); return [answer.type, answer.status]; }
        catch (error) { return [error.name, 0]; }
    }"""
    variable = json.dumps({"name": "from_a_page", "value": "1"})
    sends_json = {"Content-Type": "application/json"}
    with serving(Page) as url:
        page = browser.new_context().new_page()
        page.goto(url)
        for path in ("/health", "/block_documents/filter", "/admin/settings"):
            assert page.evaluate(ask, [project.api_url + path, {}]) == ["TypeError", 0]
        for options in (
            {"method": "POST", "headers": sends_json, "body": variable},
            {"method": "POST", "mode": "no-cors", "body": variable},
        ):
            page.evaluate(ask, [f"{project.api_url}/variables/", options])
        page.close()
    assert project.http.get("/variables/name/from_a_page").status_code == httpx.codes.NOT_FOUND
