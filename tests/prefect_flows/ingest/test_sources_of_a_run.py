"""The sources of a run: side by side, with secrets from blocks, failing each for itself."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_flows.ingest.arguments import resolve_location
from tests.support.project import PATIENCE, Project, Scratch, serving, until
from tests.support.receivers import forget

URL_BLOCK = "sql-database-url-scratch"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    (folder / "orders").mkdir(parents=True)
    (folder / "orders" / "1.csv").write_text("id,name\n1,a\n2,b\n")
    return folder


@pytest.fixture
def url(scratch: Scratch) -> Iterator[str]:
    """The database of the source, in a block; one with a table."""
    dev = scratch.dev
    scratch.query("drop database if exists shop with (force)")
    scratch.query("create database shop")
    scratch.query("create table items as select 1 as id", "shop")
    url = f"postgresql://{dev['user']}:s3cret-word@/shop?host={dev['host']}&port={dev['port']}"
    done = scratch.run("-m", "infrastructure.cli", "secret", URL_BLOCK, text=url)
    assert done.returncode == 0, done.stderr
    yield url
    scratch.query("drop database shop with (force)")


def arguments(inbox: Path, **of_inbox: Any) -> list[str]:
    given = {
        "sql__database": {"tables": {"items": None}},
        "files__inbox": {"url": str(inbox), "min_age_seconds": 0} | of_inbox,
    }
    return ["--source", "sql__database", "--source", "files__inbox",
            "--source-arguments", json.dumps(given)]  # fmt: skip


def run(scratch: Scratch, *given: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return scratch.pipeline("--target", scratch.target, *given, **environment)


def rows(scratch: Scratch, table: str) -> int:
    return scratch.query(f"select count(*) from {table}", "scratch")[0][0]


def test_sources_go_side_by_side_as_stages_with_artifacts(
    project: Project, scratch: Scratch, url: str, inbox: Path
) -> None:
    # GIVEN two sources, one of which refuses a file
    (inbox / "orders" / "2.csv").write_text("id,name\n3,c\n4\n")

    done = run(scratch, *arguments(inbox))

    # THEN both are brought in, each as two stages with the retries of the settings
    assert done.returncode == 0, done.stdout + done.stderr
    assert (rows(scratch, "raw_sql__database.items"), rows(scratch, "raw_files__inbox.orders")) \
        == (1, 2)  # fmt: skip
    last = project.last_run(scratch.target)
    tasks = project.task_runs(last)
    policy = {name: task["empirical_policy"] for name, task in tasks.items()}
    for source in ("sql__database", "files__inbox"):
        assert tasks[f"extract-{source}"]["state_name"] == "Completed"
        assert (policy[f"extract-{source}"]["retries"], policy[f"load-{source}"]["retries"]) == (
            3,
            3,
        )
        assert policy[f"extract-{source}"]["retry_delay"] == [30, 60, 120]
        assert policy[f"load-{source}"]["retry_delay"] == [45, 90, 180]
    begun = [datetime.fromisoformat(tasks[f"extract-{s}"]["start_time"])
             for s in ("sql__database", "files__inbox")]  # fmt: skip
    ended = [datetime.fromisoformat(tasks[f"load-{s}"]["end_time"])
             for s in ("sql__database", "files__inbox")]  # fmt: skip
    assert max(begun) < min(ended), "one waited for the other"
    # AND a person reads what came, what was refused and why, and what changed
    texts = project.artifacts(last)
    extraction, load = (texts[f"{scratch.target}-{key}"] for key in ("extraction", "load"))
    assert re.search(r"\| sql__database \| 1 \| [\d,]+ \| [\d.]+ \| [\d,]+ \| 0 \|", extraction)
    assert re.search(r"\| files__inbox \| orders \| .*2\.csv.*line 3.* \|", extraction)
    assert "| raw_files__inbox.orders | 2 | 0 |" in load
    assert "| raw_sql__database | new table items (1 columns) |" in load
    assert "extract-files__inbox" in done.stdout
    # AND the secret is nowhere
    log = project.asked("logs", logs={"flow_run_id": {"any_": [last["id"]]}})
    everything = done.stdout + done.stderr + json.dumps([texts, log, last])
    assert "s3cret-word" not in everything


def test_one_that_fails_does_not_hold_up_the_other(
    project: Project, scratch: Scratch, url: str, inbox: Path
) -> None:
    scratch.query("drop table items", "shop")
    done = run(scratch, *arguments(inbox))
    assert done.returncode == 1
    assert 'relation "items" does not exist' in done.stderr
    assert "fix:" in done.stderr
    assert rows(scratch, "raw_files__inbox.orders") == 2
    tasks = project.task_runs(project.last_run(scratch.target))
    assert tasks["extract-sql__database"]["state_name"] == "Failed"
    assert tasks["extract-sql__database"]["run_count"] == 1, "what is not there is not tried again"
    assert "dbt-run" not in tasks
    # AND the next run brings in what is left
    scratch.query("create table items as select 1 as id", "shop")
    again = run(scratch, *arguments(inbox))
    assert again.returncode == 0, again.stderr
    assert rows(scratch, "raw_sql__database.items") == 1
    assert rows(scratch, "raw_files__inbox.orders") == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--source", "youtube__channels"], "millrace secret youtube-channels-api-key-scratch"),
        (["--source", "files__inbox"], "url: this field is required"),
        (
            ["--source", "files__inbox", "--source-arguments", '{"files__inbox": {"ulr": "/"}}'],
            "ulr: there is no such field",
        ),
        (["--source-arguments", '{"nobody__knows": {}}'], "'nobody__knows' does not exist"),
        (["--source-arguments", "{"], "source_arguments: it is not YAML: line 1"),
    ],
)
def test_what_a_source_lacks_is_reported_before_anything_is_changed(
    scratch: Scratch, given: list[str], message: str
) -> None:
    done = run(scratch, *given)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not scratch.relations()


def test_arguments_stand_in_one_place_and_what_was_never_loaded_is_left_out(
    project: Project, scratch: Scratch, url: str
) -> None:
    # GIVEN a source that is configured for the target, with a folder of the project, and a model
    package = scratch.folder / "prefect_flows"
    package.unlink()
    shutil.copytree(project.folder / "prefect_flows", package)
    file = package / "sources" / "files__inbox" / "prefect.yaml"
    configured = "parameters: {target: scratch, url: its/inbox, min_age_seconds: 0}"
    text = file.read_text()
    file.write_text(text.replace("parameters: {target: dev}", configured))
    assert configured in file.read_text()
    inbox = scratch.folder / "its" / "inbox"
    inbox.mkdir(parents=True)
    (inbox / "orders.csv").write_text("id\n1\n")
    tables = [{"name": "orders"}]
    scratch.properties(
        sources=[{"name": "files__inbox", "schema": "raw_files__inbox", "tables": tables}]
    )
    scratch.model("orders", "select id from {{ source('files__inbox', 'orders') }}")
    load = "uv run millrace ingest files__inbox --target scratch"

    # WHEN another source is asked for, it leaves the model out, and says how to load the source
    others = ["--source", "sql__database", "--source-arguments",
              '{"sql__database": {"tables": {"items": null}}}', "--skip", "docs"]  # fmt: skip
    done = run(scratch, *others)
    assert done.returncode == 0, done.stderr
    said = (
        "Source files__inbox was never loaded into target scratch; nodes downstream of it are "
        "excluded from this run"
    )
    assert said in " ".join((done.stdout + done.stderr).split())
    assert load in " ".join((done.stdout + done.stderr).split())
    assert "numbers" in scratch.relations()
    assert "orders" not in scratch.relations()

    # THEN the command and the pipeline need no argument
    done = scratch.run("-m", "infrastructure.cli", *load.split()[3:])
    assert done.returncode == 0, done.stderr
    assert rows(scratch, "raw_files__inbox.orders") == 1
    done = run(scratch, *others, "--source", "files__inbox")
    assert done.returncode == 0, done.stderr
    assert "was never loaded" not in done.stdout + done.stderr
    assert "orders" in scratch.relations()


def test_a_relative_folder_is_one_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_PROJECT_DIR", "/srv/millrace")
    assert resolve_location("inbox/orders") == "/srv/millrace/inbox/orders"
    for url in ("/inbox", "gs://bucket/folder", "file:///inbox", "~/inbox"):
        assert resolve_location(url) == url


@pytest.mark.kills
def test_after_a_signal_both_stop_and_nothing_is_half_loaded(
    project: Project, scratch: Scratch, url: str, inbox: Path
) -> None:
    scratch.query(
        "drop table items; create table items as "
        "select i as id, md5(i::text) as code from generate_series(1, 400000) i", "shop"
    )  # fmt: skip
    process = scratch.start_pipeline()  # skips ingestion: here only for its parameters
    process.kill()
    process.communicate()
    command = [*process.args[:4], *arguments(inbox), "--no-resume"]  # type: ignore[index]
    with closing(scratch.connect("shop")) as connection, connection.cursor() as cursor:
        # Neither can be read to its end.
        cursor.execute("begin; lock table items in access exclusive mode")
        process = subprocess.Popen(
            command, cwd=scratch.folder, env=scratch.variables(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock'"

        def is_waiting() -> bool:
            assert process.poll() is None, process.communicate()[0]
            return bool(scratch.query(waiting))

        until(is_waiting)
        process.send_signal(signal.SIGTERM)
        time.sleep(2)
        cursor.execute("rollback")
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output
    assert project.last_run(scratch.target)["state"]["type"] == "CANCELLED"
    # THEN the next run has everything once
    done = run(scratch, *arguments(inbox))
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(scratch, "raw_sql__database.items") == 400_000
    assert rows(scratch, "raw_files__inbox.orders") == 2


@dataclass
class Receiver:
    """A webhook on loopback, and what it was told."""

    url: str
    told: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def receiver(project: Project) -> Iterator[Receiver]:
    """One that the target's notification block names."""
    told: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if "refuse" in self.path else 200)
            self.end_headers()

    with serving(Handler) as url:
        yield Receiver(url, told)
    forget(project)


def notify(scratch: Scratch, url: str) -> None:
    code = (
        "import sys; from prefect.blocks.notifications import CustomWebhookNotificationBlock as C; "
        "C(name='hook', url=sys.argv[1], json_data={'text': '{{subject}} {{body}}'})"
        ".save('notify-scratch', overwrite=True)"
    )
    done = scratch.run("-c", code, url)
    assert done.returncode == 0, done.stderr


NOT_LONG = {"MILLRACE_STAGES__EXTRACT__RETRIES": "1",
            "MILLRACE_STAGES__EXTRACT__RETRY_DELAY_SECONDS": "0.1"}  # fmt: skip


@pytest.mark.operations
def test_rejected_rows_are_notified_once(
    scratch: Scratch, url: str, inbox: Path, receiver: Receiver
) -> None:
    notify(scratch, receiver.url)
    # GIVEN a database that does not answer, in both attempts
    away = "postgresql://reader:s3cret-word@127.0.0.1:1/shop"
    assert scratch.run("-m", "infrastructure.cli", "secret", URL_BLOCK, text=away).returncode == 0
    done = run(scratch, *arguments(inbox), "--no-resume", **NOT_LONG)
    # THEN one notice says so, with the place, what fixes it, and the run
    assert done.returncode == 1
    ((text,),) = [tuple(told.values()) for told in receiver.told]
    assert "scratch: source sql__database failed" in text
    assert "(system)" in text
    assert "127.0.0.1:1/shop" in text
    assert "fix:" in text
    assert "/runs/flow-run/" in text
    assert "s3cret-word" not in text
    # AND it is not told again while it is away, and that it is over by the run that brings it in
    assert run(scratch, *arguments(inbox), "--no-resume", **NOT_LONG).returncode == 1
    assert len(receiver.told) == 1
    assert scratch.run("-m", "infrastructure.cli", "secret", URL_BLOCK, text=url).returncode == 0
    done = run(scratch, *arguments(inbox))
    assert done.returncode == 0, done.stderr
    _, (text,) = [tuple(told.values()) for told in receiver.told]
    assert "source sql__database recovered" in text
    assert "seen by 2 runs" in text
    # AND a receiver that refuses changes nothing but the log
    notify(scratch, f"{receiver.url}/refuse")
    scratch.query("drop table items", "shop")
    done = run(scratch, *arguments(inbox), "--no-resume", **NOT_LONG)
    assert done.returncode == 1
    assert (
        "Could not send a notification through block custom-webhook/notify-scratch: " in done.stderr
    )
    assert 'relation "items" does not exist' in done.stderr
