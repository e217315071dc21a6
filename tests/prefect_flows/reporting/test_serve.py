"""The pages at 127.0.0.1: the pages and nothing else, to this machine and nobody else."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from prefect_flows.reporting.overview.serve import build_response
from prefect_flows.reporting.run_report.build import build_report
from prefect_flows.reporting.run_report.html_page import html_page
from prefect_flows.state.store import StateStore
from tests.support import fork_server
from tests.support.project import PATIENCE, REPOSITORY
from tests.support.reporting.made_up_runs import keep_made_up_run, made_up_report
from tests.support.reporting.synthetic import facts


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    store = StateStore(str(tmp_path / "store"))
    keep_made_up_run(store, made_up_report())
    store.write("targets/dev/docs.html", b"docs")
    store.write("targets/dev/manifest.json", b"secret")
    (tmp_path / "report.html").write_text("outside")
    return store


def run_folder(store: StateStore) -> str:
    (name,) = store.names("runs/dev")
    return f"runs/dev/{name}"


def test_the_pages_are_there(store: StateStore) -> None:
    for path in ("/", "/index.html", "/?a=b"):
        status, kind, body = build_response(store, path)
        assert (status, kind) == (HTTPStatus.OK, "text/html; charset=utf-8")
        assert b'href="targets/dev/report.html"' in body
    assert build_response(store, "/targets/dev/docs.html")[2] == b"docs"
    assert b"millrace on dev" in build_response(store, "/targets/dev/report.html")[2]
    assert build_response(store, f"/{run_folder(store)}/report.html")[0] == HTTPStatus.OK
    status, kind, body = build_response(store, "/metrics")
    assert status == HTTPStatus.OK
    assert kind.startswith("text/plain; version=")
    assert b'millrace_run_outcome{outcome="passed",target="dev"} 1.0' in body


@pytest.mark.parametrize(
    "path",
    [
        "/targets/dev/manifest.json", "/targets/dev/history.json", "/targets/dev/", "/targets",
        "/../report.html", "/targets/dev/../../../report.html", "/targets/../report.html",
        "/%2e%2e/report.html", "/targets/%2e%2e%2f%2e%2e/report.html", "//report.html",
        "/targets/dev%00/report.html", "/targets/dev\\report.html", "/targets/dev/report.html/",
        "/runs/dev/..%2f..%2ftargets%2fdev/report.html", "/runs/dev/report.html", "/locks/dev.lock",
        "/targets/dev/report.html%0a", "/targets/other/report.html", "file:///etc/passwd",
        "/runs/dev/20261120T060000.0..%2f..%2f/report.html",
    ],
)  # fmt: skip
def test_nothing_else_is(store: StateStore, path: str) -> None:
    status, _, body = build_response(store, path)
    assert status == HTTPStatus.NOT_FOUND
    assert b"secret" not in body
    assert b"outside" not in body


def test_a_store_that_cannot_be_read_says_so(store: StateStore, tmp_path: Path) -> None:
    file = tmp_path / "store" / "targets" / "dev" / "docs.html"
    file.unlink()
    file.mkdir()
    status, _, body = build_response(store, "/targets/dev/docs.html")
    assert status == HTTPStatus.SERVICE_UNAVAILABLE
    assert b"fix:" in body


def command(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """The command as a person starts it, in an empty project without a Prefect API."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MILLRACE_"))}
    environment = known | {
        "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200",
        "MILLRACE_PROJECT_DIR": str(tmp_path / "empty"),
    }  # fmt: skip
    (tmp_path / "empty").mkdir(exist_ok=True)
    return {
        "arguments": ["-m", "infrastructure.cli", "report", *arguments],
        "env": environment,
        "cwd": tmp_path / "empty",
    }


@contextmanager
def served(tmp_path: Path, store: StateStore) -> Iterator[tuple[subprocess.Popen[str], str]]:
    given = command(tmp_path, "serve", "--port", "0", "--state-url", store.url)
    process = subprocess.Popen(
        [sys.executable, *given.pop("arguments")], **given, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # As a shell starts what stands in its foreground.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Pages: http://127.0.0.1:"), line
        yield process, line.split()[1]
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def asked(port: int, path: str, host: str, method: str = "GET") -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body, response.headers


def test_it_serves_until_ctrl_c(tmp_path: Path, store: StateStore) -> None:
    with served(tmp_path, store) as (process, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        status, body, headers = asked(port, "/", f"127.0.0.1:{port}")
        assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
        assert b"Targets (1)" in body
        assert asked(port, "/", f"localhost:{port}", "HEAD")[:2] == (200, b"")
        assert asked(port, "/", "evil.example.org")[0] == 403, "another name for this machine"
        assert asked(port, "/../report.html", "localhost")[0] == 404
        assert asked(port, "/", "localhost", "POST")[0] == 501
        with ExitStack() as browsers:  # which keep their connections open, as Ctrl-C comes
            for _ in range(4):
                browsers.enter_context(socket.create_connection(("127.0.0.1", port)))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (0, "Stopped.\n", "")


@pytest.mark.parametrize("what", ["serve", "index"])
def test_without_a_store_it_says_what_fixes_it(tmp_path: Path, what: str) -> None:
    done = fork_server.run(**command(tmp_path, what))
    assert done.returncode == 2
    assert "Cannot read the state store's address from Prefect" in done.stderr
    assert "There is no state store with runs in it." in done.stderr
    assert "where: " + str(tmp_path / "empty" / ".local" / "state") in done.stderr
    assert "fix:   run the pipeline" in done.stderr


def test_a_port_that_is_taken_is_an_error_with_its_fix(tmp_path: Path, store: StateStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = command(tmp_path, "serve", "--port", port, "--state-url", store.url)
        done = fork_server.run(**given)
    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert "--port 0" in done.stderr


def test_the_command_writes_the_page(tmp_path: Path, store: StateStore) -> None:
    report = html_page(build_report(facts(10)))
    store.write("targets/prod/report.html", report.encode())
    given = command(tmp_path, "index", "--state-url", store.url)
    done = fork_server.run(**given)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Written: {store.url}/index.html\n"
    assert b"Targets (2)" in (store.read("index.html") or b"")
