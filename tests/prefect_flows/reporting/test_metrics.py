"""Metrics: what they say, that promtool takes them, and that no gateway holds up a run."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from prefect_flows.core.passwords import remove_login
from prefect_flows.core.settings import Settings
from prefect_flows.reporting.metrics.export import (
    PUSH_SECONDS,
    push,
    send_metrics,
)
from prefect_flows.reporting.metrics.exposition import (
    METRICS,
    build_registry,
    load_all_facts,
    load_facts,
)
from prefect_flows.reporting.overview.pages import publish
from prefect_flows.state.incidents import Incident, save_incidents
from prefect_flows.state.store import StateStore
from prefect_flows.transform.run_report import RunReport
from tests.support.project import serving
from tests.support.reporting.made_up_runs import LOG, keep_made_up_run, made_up_report, sources_file
from tests.support.reporting.synthetic import START

Samples = dict[tuple[str, frozenset[str]], float]


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    """Two runs, the second one failed."""
    store = StateStore(str(tmp_path / "store"))
    store.write("targets/dev/sources.json", sources_file(START, s0="warn"))
    keep_made_up_run(store, made_up_report(), settings=Settings(price_per_tib=6))
    report = made_up_report(failures=True)
    keep_made_up_run(store, report, number=1, settings=Settings(price_per_tib=6))
    keep_results(store, report)
    seen = Incident(id="a", name="a", cause="b", first_at=START, last_at=START)
    save_incidents(store, "dev", [seen, seen.model_copy(update={"id": "b", "kind": "stale"})])
    return store


def keep_results(store: StateStore, report: RunReport, target: str = "dev") -> None:
    results = [
        {"unique_id": node.unique_id, "status": node.status, "execution_time": node.seconds,
         "adapter_response": dict(node.response)}
        for node in report.nodes
    ]  # fmt: skip
    document = json.dumps({"results": results}).encode()
    store.write(f"targets/{target}/run_results.json", document)


def text_of(store: StateStore) -> str:
    return generate_latest(build_registry(load_all_facts(store))).decode()


def samples(text: str) -> Samples:
    """Metric and values of its labels, without the target → value."""
    return {
        (sample.name, frozenset(v for k, v in sample.labels.items() if k != "target")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_they_say(store: StateStore) -> None:
    found = samples(text_of(store))

    def value(name: str, *labels: str) -> float | None:
        return found.get((f"millrace_{name}", frozenset(labels)))

    began = START + timedelta(days=1)
    assert value("run_started_timestamp_seconds") == began.timestamp()
    good = value("run_last_success_timestamp_seconds")
    assert good is not None
    assert good < began.timestamp(), "the first run's, which passed"
    assert value("run_outcome", "failed") == 1
    assert value("run_outcome", "passed") == 0
    assert value("run_billed_bytes") == 2**39
    assert value("run_cost") == 3
    assert value("stage_rows", "dbt-run") == 50_000
    assert value("stage_duration_seconds", "dbt-snapshot") is None, "it was left out"
    assert value("tests", "failed") == 1
    assert value("source_status", "raw.s0", "warn") == 1
    loaded = (START - timedelta(hours=1)).timestamp()
    assert value("source_loaded_timestamp_seconds", "raw.s0") == loaded
    assert value("mart_rows", "dim_planes") == 3_322
    assert value("open_incidents", "failure") == 1
    assert value("open_incidents", "stale") == 1
    assert value("open_incidents", "warning") == 0
    assert value("node_status", "model.p.int_crm__entity_2", "model", "error") == 1
    assert value("node_rows", "model.p.fct_flights", "model") == 5
    assert value("node_bytes", "model.p.fct_flights", "model") == 2**30
    assert value("nodes", "model", "error") == 1
    assert value("nodes_without_series") == 0


def test_each_is_declared_with_its_labels_and_a_help(store: StateStore) -> None:
    families = list(text_string_to_metric_families(text_of(store)))
    assert {family.name for family in families} == set(METRICS), "the store makes all of them"
    for family in families:
        said, labels = METRICS[family.name]
        assert (family.type, family.documentation) == ("gauge", said)
        assert all(set(sample.labels) == set(labels) for sample in family.samples)


def test_promtool_finds_nothing_wrong(store: StateStore) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on the PATH: Prometheus' own check saw no metric")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text_of(store), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nodes_that_have_series_are_bounded(store: StateStore) -> None:
    report = made_up_report(3000, failures=True)
    keep_results(store, report)
    found = samples(text_of(store))
    shown = [labels for name, labels in found if name == "millrace_node_duration_seconds"]
    assert len(shown) == 500
    assert found["millrace_nodes_without_series", frozenset()] == 2501
    failed = {node.unique_id for node in report.nodes if node.failed}
    assert failed <= {label for labels in shown for label in labels}, "none that failed is left out"


def test_a_store_without_runs_has_no_metrics(tmp_path: Path) -> None:
    assert text_of(StateStore(str(tmp_path))) == ""


def test_of_a_damaged_file_the_log_speaks(
    store: StateStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.write("targets/dev/run_results.json", b'{"results": [{}]}')
    send_metrics(store, "dev", Settings(metrics_dir=tmp_path), LOG)
    assert "Some metrics are missing." in caplog.text
    assert "targets/dev/run_results.json" in caplog.text
    written = (tmp_path / "millrace_dev.prom").read_text()
    assert 'millrace_state_faults{target="dev"} 1.0' in written
    assert 'millrace_run_outcome{outcome="failed",target="dev"} 1.0' in written
    assert "millrace_node_status" not in written


def test_a_textfile_is_written_whole(store: StateStore, tmp_path: Path) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    (folder / "millrace_dev.prom").write_text("of the last run")
    send_metrics(store, "dev", Settings(metrics_dir=folder), LOG)
    assert [file.name for file in folder.iterdir()] == ["millrace_dev.prom"]
    written = (folder / "millrace_dev.prom").read_text()
    assert samples(written) == samples(text_of(store))


def test_a_folder_that_is_not_there_fails_no_run(
    store: StateStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    send_metrics(store, "dev", Settings(metrics_dir=tmp_path / "no"), LOG)
    assert "Metrics could not be written: FileNotFoundError" in caplog.text
    assert "fix:   make the folder" in caplog.text


def test_by_default_nothing_is_read_or_sent(
    store: StateStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.write("targets/dev/run_results.json", b"no JSON")
    with caplog.at_level(logging.WARNING):
        publish(store, "dev", Settings(), LOG)
    assert caplog.text == ""


@contextmanager
def gateway(status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    asked: list[dict[str, Any]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked.append({"path": self.path, "body": body, "login": self.headers["Authorization"]})
            self.send_response(status)
            self.end_headers()

    with serving(Gateway) as url:
        yield url, asked


def test_a_gateway_is_given_the_metrics_of_the_target(
    store: StateStore, caplog: pytest.LogCaptureFixture
) -> None:
    with gateway() as (url, asked):
        send_metrics(
            store, "dev",
            Settings(metrics_push_url=url.replace("//", "//ann:se%40cret@")), LOG,  # type: ignore[arg-type]
        )  # fmt: skip
    (request,) = asked
    assert request["path"] == "/metrics/job/millrace/target/dev"
    assert samples(request["body"]) == samples(text_of(store))
    assert base64.b64decode(request["login"].removeprefix("Basic ")) == b"ann:se@cret"
    assert caplog.text == ""


@pytest.mark.parametrize("kind", ["refuses", "answers 500", "no HTTP"])
def test_a_gateway_that_fails_is_reported_without_its_password(
    store: StateStore, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with gateway(500) as (failing, _), socket.create_server(("127.0.0.1", 0)) as other:
        url = failing if kind == "answers 500" else f"http://127.0.0.1:{other.getsockname()[1]}"
        if kind == "refuses":
            other.close()
        if kind == "no HTTP":
            _answers(other, b"SSH-2.0-x\r\n\r\n")
        settings = Settings.model_validate({"metrics_push_url": url.replace("//", "//a:hush@")})
        send_metrics(store, "dev", settings, LOG)
    assert "Metrics could not be pushed" in caplog.text
    assert f"{remove_login(url)}" in caplog.text
    assert "MILLRACE_METRICS_PUSH_URL" in caplog.text
    assert "hush" not in caplog.text


def _answers(server: socket.socket, data: bytes, every: float = 0.0) -> None:
    """Answer the first that asks, at once or a byte at a time."""

    def answer() -> None:
        with server.accept()[0] as connection:
            connection.recv(65_536)
            try:
                for byte in range(len(data)):
                    connection.sendall(data[byte : byte + 1] if every else data)
                    if not every:
                        break
                    time.sleep(every)
            except OSError:
                return

    threading.Thread(target=answer, daemon=True).start()


@pytest.mark.parametrize("kind", ["never answers", "answers a byte at a time"])
def test_a_gateway_that_hangs_holds_up_nothing_for_long(store: StateStore, kind: str) -> None:
    registry = build_registry([load_facts(store, "dev")])
    with socket.create_server(("127.0.0.1", 0)) as server:
        if kind == "answers a byte at a time":
            _answers(server, b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 400, every=0.2)
        began = time.monotonic()
        fault = push(f"http://127.0.0.1:{server.getsockname()[1]}", "dev", registry, seconds=1)
        assert time.monotonic() - began < 60
    assert fault is not None
    assert "no answer within 1 s" in fault or "timed out" in fault
    assert PUSH_SECONDS == 5
