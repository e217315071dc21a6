"""OpenLineage events: what each job read and wrote, in the file of a run and at a server."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from prefect_flows.core.profiles import Profile
from prefect_flows.reporting.open_lineage.events import build_events
from prefect_flows.reporting.open_lineage.send import BATCH, send
from prefect_flows.reporting.run_report.build import build_report
from tests.support.project import Scratch, serving
from tests.support.reporting.synthetic import facts

POSTGRES = Profile(
    "millrace", "dev", {"type": "postgres", "host": "/run/pg", "port": 5433, "dbname": "shop"}
)
RUN = str(uuid.UUID(int=7))


def events_of(nodes: int, **changes: Any) -> list[dict[str, Any]]:
    report = build_report(replace(facts(nodes), run_id=RUN, **changes))
    return build_events(report, POSTGRES)


def test_each_event_has_what_the_specification_requires() -> None:
    for event in events_of(10):
        assert event["eventType"] in {"START", "COMPLETE", "FAIL", "ABORT"}
        assert event["eventTime"][-6:] == "+00:00"
        assert str(uuid.UUID(event["run"]["runId"])) == event["run"]["runId"]
        assert event["job"]["namespace"]
        assert event["schemaURL"].startswith("https://openlineage.io/spec/")
        holders = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
        facets = [
            facet
            for holder in holders
            for key in ("facets", "inputFacets", "outputFacets")
            for facet in holder.get(key, {}).values()
        ]
        assert all({"_producer", "_schemaURL"} <= facet.keys() for facet in facets)


def test_every_run_starts_and_ends_within_the_run_of_the_pipeline() -> None:
    found = events_of(1000)
    kinds: dict[str, list[str]] = {}
    for event in found:
        kinds.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert all(first == "START" and len(rest) == 1 for first, *rest in kinds.values())
    parents = {
        e["run"]["facets"]["parent"]["run"]["runId"] for e in found if e["run"]["runId"] != RUN
    }
    assert parents == {RUN}
    assert Counter(kind for _, kind in kinds.values())["FAIL"] > 1
    assert [e["eventTime"] for e in found] == sorted(e["eventTime"] for e in found)


@pytest.mark.parametrize(
    ("output", "namespace"),
    [
        ({"type": "postgres", "host": "/run/pg", "port": 5433}, "postgres://localhost:5433"),
        ({"type": "postgres", "host": "db.example.org"}, "postgres://db.example.org:5432"),
        ({"type": "bigquery", "project": "shop"}, "bigquery"),
    ],
)
def test_tables_are_named_as_the_specification_says(output: dict[str, Any], namespace: str) -> None:
    report = build_report(replace(facts(10), run_id=RUN, loaded={"crm": {"people": 3}}))
    found = build_events(report, Profile("millrace", "dev", output))
    written = [table for event in found for table in event["outputs"]]
    assert {table["namespace"] for table in written} == {namespace}
    assert any(table["name"].endswith(".raw_crm.people") for table in written)
    assert not any('"' in table["name"] or "`" in table["name"] for table in written)


class _Receiver(BaseHTTPRequestHandler):
    received: list[tuple[str, list[dict[str, Any]]]]
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, json.loads(body)))
        self.send_response(self.status)
        self.end_headers()


@pytest.fixture
def receiver() -> Iterator[tuple[str, type[_Receiver]]]:
    handler = type("Handler", (_Receiver,), {"received": []})
    with serving(handler) as url:
        yield url, handler


def test_a_server_gets_them_in_batches(receiver: tuple[str, type[_Receiver]]) -> None:
    url, handler = receiver
    found = events_of(1000)
    assert send(f"{url}/api/v1", found) is None
    assert {path for path, _ in handler.received} == {"/api/v1/lineage/batch"}
    assert [event for _, batch in handler.received for event in batch] == found
    assert max(len(batch) for _, batch in handler.received) == BATCH


def test_a_server_that_refuses_is_named(receiver: tuple[str, type[_Receiver]]) -> None:
    url, handler = receiver
    handler.status = 503
    assert send(f"{url}/api/v1", events_of(1000)) == "503 Service Unavailable"
    assert len(handler.received) == 1


def test_a_run_stores_its_events_though_they_cannot_be_sent(scratch: Scratch) -> None:
    scratch.properties(
        models=[{"name": "numbers", "columns": [{"name": "id", "data_tests": ["not_null"]}]}]
    )
    url = "http://user:s3cret@127.0.0.1:9/api/v1"
    done = scratch.run_pipeline("--no-prefect", "--skip", "docs", MILLRACE_OPENLINEAGE_URL=url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OpenLineage events are not sent: ConnectError" in done.stderr
    assert "s3cret" not in done.stderr
    (file,) = scratch.local.glob("state/runs/scratch/*/openlineage.ndjson")
    found = [json.loads(line) for line in file.read_text().splitlines()]
    ended = {e["job"]["name"]: e for e in found if e["eventType"] == "COMPLETE"}
    assert set(ended) == {
        "dbt-full-pipeline.scratch", "model.scratch.numbers", "model.scratch.doubled",
        "tests.model.scratch.numbers",
    }  # fmt: skip
    (read,) = ended["model.scratch.doubled"]["inputs"]
    (written,) = ended["model.scratch.numbers"]["outputs"]
    assert (read["namespace"], read["name"]) == (written["namespace"], written["name"])
    (tested,) = ended["tests.model.scratch.numbers"]["inputs"]
    (assertion,) = tested["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (assertion["assertion"], assertion["column"], assertion["success"]) == (
        "not_null",
        "id",
        True,
    )
