"""A server that does not answer is waited for as long as the settings say, and no longer."""

from __future__ import annotations

import asyncio
import http.server
import shutil
import socket
import time
from pathlib import Path

import pytest
import yaml
from prefect.client import base
from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
from prefect.events import Event
from prefect.events.clients import PrefectEventsClient
from prefect.exceptions import PrefectHTTPStatusError
from prefect.utilities.math import clamped_poisson_interval

from prefect_flows.core import bounded_waits, waiting_log
from tests.support.project import NOT_IN_A_CLONE, REPOSITORY, SCRATCH_DBT, Project, serving

# Google's client would try for ten minutes, and dbt would let it do so twice.
SECONDS = 5
SECONDS_TO_END = 120


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.fixture
def on_bigquery(tmp_path: Path) -> Project:
    """The small project on a BigQuery where nothing listens; it needs no other server."""
    folder = tmp_path / "millrace"
    shutil.copytree(SCRATCH_DBT, folder / "dbt", ignore=NOT_IN_A_CLONE)
    (folder / "prefect_flows").symlink_to(REPOSITORY / "prefect_flows")
    output = {
        "type": "bigquery", "method": "oauth-secrets", "token": "fake-token", "threads": 1,
        "project": "nowhere", "dataset": "scratch", "location": "EU",
        "api_endpoint": f"http://127.0.0.1:{closed_port()}",
    }  # fmt: skip
    name = yaml.safe_load((folder / "dbt" / "dbt_project.yml").read_text())["profile"]
    profiles = {name: {"target": "scratch", "outputs": {"scratch": output}}}
    (folder / "dbt" / "profiles.yml").write_text(yaml.safe_dump(profiles))
    return Project(folder, {"MILLRACE_UNREACHABLE_SECONDS": str(SECONDS)})


@pytest.mark.kills
def test_a_bigquery_that_does_not_answer_is_reported_in_time(on_bigquery: Project) -> None:
    began = time.monotonic()

    done = on_bigquery.pipeline("--target", "scratch", "--no-prefect", "--skip", "ingest")

    assert done.returncode == 2, done.stdout + done.stderr
    assert time.monotonic() - began < SECONDS_TO_END
    said = f"The warehouse of target 'scratch' did not answer within {SECONDS} s. Last: "
    assert f"WarehouseUnreachable: {said}" in done.stderr
    assert "Connection refused" in done.stderr
    assert "where: bigquery nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wait_is_logged_repeatedly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting_log, "WAIT_LOG_SECONDS", 0.2)

    with waiting_log.log_while_waiting("bigquery nowhere", 120):
        time.sleep(1)

    said = [record.getMessage() for record in caplog.records]
    assert len(said) > 1
    assert said[0] == "Waiting for bigquery nowhere: 0 s of at most 120 s."


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> bounded_waits.ApiRetryLimit:
    """Of Prefect's clients in this process, as long as the test lasts."""
    for owner, names in (
        (PrefectHttpxSyncClient, ["_send_with_retry"]),
        (PrefectHttpxAsyncClient, ["_send_with_retry"]),
        (PrefectEventsClient, ["emit", "_reconnect"]),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(base, "clamped_poisson_interval", clamped_poisson_interval)
    monkeypatch.setattr(bounded_waits, "_patience", None)
    monkeypatch.setattr(bounded_waits, "WAIT_LOG_SECONDS", 1)
    return bounded_waits.limit_api_retries(3)


class Answer(http.server.BaseHTTPRequestHandler):
    """An API that is well, or one behind a proxy that does not reach it."""

    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/away" else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.mark.kills
def test_requests_to_an_api_that_went_away_wait_together(
    patience: bounded_waits.ApiRetryLimit, caplog: pytest.LogCaptureFixture
) -> None:
    """Prefect's client by itself tries each of them for a minute."""
    with PrefectHttpxSyncClient() as client:
        with serving(Answer) as url:
            assert client.get(url).status_code == 200
        for _ in range(20):
            with pytest.raises(bounded_waits.ApiTimeout, match=r"Connect|just now"):
                client.get(url)
    assert patience.is_over()
    assert "Waiting for the Prefect API: " in caplog.text
    assert " of at most 3 s." in caplog.text

    time.sleep(bounded_waits.FAIL_FAST_SECONDS)  # so long a request is not even tried
    with serving(Answer) as url, PrefectHttpxSyncClient() as client:
        for _ in range(20):
            with pytest.raises(
                (PrefectHTTPStatusError, bounded_waits.ApiTimeout), match=r"503|just now"
            ):
                client.get(f"{url}/away")
        time.sleep(bounded_waits.FAIL_FAST_SECONDS)
        assert client.get(url).status_code == 200
    assert not patience.is_over()


def test_requests_that_are_awaited_wait_with_the_others(
    patience: bounded_waits.ApiRetryLimit,
) -> None:
    async def ask() -> None:
        async with PrefectHttpxAsyncClient() as client:
            with serving(Answer) as url:
                assert (await client.get(url)).status_code == 200
            for _ in range(20):
                with pytest.raises(bounded_waits.ApiTimeout, match=r"Connect|just now"):
                    await client.get(url)

    asyncio.run(ask())
    assert patience.is_over()


def test_events_wait_with_the_requests_and_are_kept(patience: bounded_waits.ApiRetryLimit) -> None:
    """Prefect's client by itself tries for eight seconds for each event."""
    client = PrefectEventsClient(f"http://127.0.0.1:{closed_port()}/api")
    events = [Event(event="a", resource={"prefect.resource.id": str(i)}) for i in range(20)]

    async def connect() -> None:
        async with client:
            pytest.fail("nobody listens there")

    async def emit() -> None:
        for event in events:
            await client.emit(event)

    with pytest.raises(bounded_waits.ApiTimeout):
        asyncio.run(connect())
    assert patience.is_over()
    asyncio.run(emit())
    assert client._unconfirmed_events == events
