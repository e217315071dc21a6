"""Runs that fail, warn and recover, and what real receivers on loopback are told of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_flows.core.names import concurrency_limit, profile_block
from tests.support.project import PATIENCE, Project, Scratch, until
from tests.support.receivers import (
    HOSTS,
    SECRETS,
    Receivers,
    blocks,
    forget,
    is_as_documented,
    receivers,
    texts_of,
)

TABLE = "{{ config(materialized='table') }} "
RETRY_NOTHING = {
    f"MILLRACE_STAGES__DBT_{stage}__RETRIES": "0" for stage in ("RUN", "TEST", "FRESHNESS")
}
# More than Apprise's own patience: it is the first to give up one that hangs, and says so.
SECONDS = 20


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Receivers]:
    with receivers(tmp_path) as found:
        yield found


@pytest.fixture
def notified(project: Project, scratch: Scratch, told: Receivers) -> Iterator[Scratch]:
    """A target whose receivers setup has made of Terraform's outputs."""
    done = setup(scratch, {"receivers": told.contract(), "owners": {"shop": "<@U024BE7LH>"}})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "madeUpSecret" not in done.stdout + done.stderr
    yield scratch
    forget(project)


def setup(scratch: Scratch, notices: dict[str, Any]) -> Any:
    file = scratch.folder / "outputs.json"
    document = json.loads(file.read_text())
    document["dbt_target_notices"] = {"value": {"scratch": notices}}
    file.write_text(json.dumps(document))
    return scratch.setup("--outputs", str(file), "--target", "scratch")


def run(scratch: Scratch, told: Receivers, *given: str) -> Any:
    return scratch.run_pipeline(
        *given, **RETRY_NOTHING, **told.environment, MILLRACE_NOTIFY_SECONDS=str(SECONDS)
    )


def state(scratch: Scratch, name: str) -> Any:
    file = scratch.local / "state" / "targets" / "scratch" / name
    return json.loads(file.read_text()) if file.exists() else None


def test_owners_are_notified_once_and_on_recovery(
    project: Project, notified: Scratch, told: Receivers
) -> None:
    # A plain read of the blocks shows no secret.
    plain = json.dumps(blocks(project))
    assert all(secret not in plain for secret in SECRETS)

    # GIVEN a model that cannot be built, and two behind it
    meta = {"meta": {"owner": "shop"}}
    notified.model("first", "select no_such_column from (select 1 as id) as t")
    notified.model("second", "select * from {{ ref('first') }}")
    notified.model("third", "select * from {{ ref('second') }}")
    notified.properties(models=[{"name": "first", "config": meta}])
    done = run(notified, told)
    assert done.returncode == 1

    # THEN each receiver is told once, of its chat's own shape, of what a person needs
    assert not told.refused
    for host in HOSTS:
        (one,) = told.of(host)
        is_as_documented(one)
        text = texts_of(one)
        for said in (
            "Millrace: scratch: model first failed", "no_such_column", "shop", "U024BE7LH",
            "blocked: model second, model third", "--select scratch.first,file:first.sql",
            "/runs/flow-run/",
        ):  # fmt: skip
            assert said in text, (host, said, text)
    mail, _ = told.mails
    assert {mail["X-Recipients"] for mail in told.mails} == {
        "on-call@example.com", "second@example.com",
    }  # fmt: skip
    assert mail["Subject"] == "Millrace: scratch: model first failed"
    body = mail.get_body(("plain",)).get_content()  # type: ignore[attr-defined]
    assert "blocked: model second, model third" in body
    everything = done.stdout + done.stderr
    assert all(secret not in everything for secret in SECRETS)

    # AND it is counted, and not told again
    told.forget()
    assert run(notified, told).returncode == 1
    assert (told.told, told.mails) == ([], [])
    (incident,) = state(notified, "incidents.json")
    assert (incident["runs"], incident["name"], incident["owner"]) == (2, "model first", "shop")

    # WHEN it is fixed, THEN they learn for how long it was broken
    notified.model("first", "select 1 as id")
    assert run(notified, told).returncode == 0
    (one,) = told.of("hooks.slack.com")
    assert "model first recovered" in texts_of(one)
    assert "seen by 2 runs" in texts_of(one)
    assert state(notified, "incidents.json") == []
    assert len(told.mails) == 2


@pytest.mark.operations
def test_a_failure_goes_to_the_receivers_of_its_owner_and_tags(
    project: Project, notified: Scratch, told: Receivers
) -> None:
    # GIVEN a chat for the nodes of an owner, and one for those with a tag
    routes = {"discord": {"owners": ["shop"]}, "hook": {"tags": ["finance"]}}
    done = setup(notified, {"receivers": told.contract(), "routes": routes})
    assert done.returncode == 0, done.stdout + done.stderr
    notified.model("second", TABLE + "select 1 / 0 as id")
    notified.properties(models=[{"name": "second", "config": {"meta": {"owner": "shop"}}}])
    notified.model("first", TABLE + "{{ config(tags=['finance']) }} select 1 / 0 as id")
    # WHEN two nodes fail
    assert run(notified, told).returncode == 1
    # THEN each of the two chats is told of its own, and the others of both
    (discord,), (hook,) = told.of("discord.com"), told.of("hooks.example.com")
    assert "model second failed" in texts_of(discord)
    assert "first" not in texts_of(discord)
    assert hook.document["subject"] == "Millrace: scratch: model first failed"
    (slack,) = told.of("hooks.slack.com")
    assert "and 1 more" in texts_of(slack)
    # AND the delivery of a new version is told to the others only
    told.forget()
    done = notified.run("-m", "infrastructure.delivery.container_cli", "notify", "scratch", "done",
                        text="delivered", **told.environment)  # fmt: skip
    assert "sent through notify-scratch--team" in done.stdout
    assert told.of("discord.com") == told.of("hooks.example.com") == []


@pytest.mark.operations
def test_a_missed_deadline_is_told_to_its_owner_without_a_run(
    notified: Scratch, told: Receivers
) -> None:
    # GIVEN a model with a deadline, which a run completed two days ago
    setup(notified, {"receivers": told.contract(), "routes": {"hook": {"owners": ["shop"]}}})
    notified.model("first", "select 1 as id")
    meta = {"meta": {"owner": "shop", "deadline": "00:00 UTC"}}
    notified.properties(models=[{"name": "first", "config": meta}])

    def check() -> tuple[int, str]:
        command = ("-m", "infrastructure.cli", "deadlines", "scratch")
        done = notified.run(*command, **told.environment, MILLRACE_NOTIFY_SECONDS=str(SECONDS))
        return done.returncode, done.stdout + done.stderr

    assert check() == (0, "No model and no exposure has a deadline.\n")
    assert run(notified, told, "--skip", "docs").returncode == 0
    status, table = check()
    assert (status, "met" in table) == (0, True)
    file = notified.local / "state" / "targets" / "scratch" / "deadlines.json"
    ((node, known),) = json.loads(file.read_text()).items()
    past = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    file.write_text(json.dumps({node: known | {"seen_at": past, "complete_at": past}}))
    told.forget()
    # WHEN the deadlines are checked twice
    status, table = check()
    assert (status, "missed" in table, "model first" in table) == (1, True, True)
    assert check()[0] == 1
    # THEN its owner is told once, and nobody else
    (one,) = told.of("hooks.example.com")
    assert one.document["subject"] == "Millrace: scratch: model first is stale"
    assert "It missed its deadline 00:00 UTC of " in one.document["body"]
    assert "fix: uv run millrace run --target scratch" in one.document["body"]
    assert len(told.told) == 1
    assert told.mails == []
    # AND when a run has completed it
    told.forget()
    assert run(notified, told, "--skip", "docs").returncode == 0
    assert check()[0] == 0
    (one,) = told.told
    assert one.document["subject"] == "Millrace: scratch: model first recovered"
    # AND a target that does not exist is named
    done = notified.run("-m", "infrastructure.cli", "deadlines", "scrtach")
    assert done.returncode == 2
    assert "Did you mean 'scratch'?" in done.stderr


@pytest.mark.operations
def test_one_that_hangs_one_that_refuses_and_one_that_is_away(
    notified: Scratch, told: Receivers
) -> None:
    notified.model("first", "select 1 as id")
    started = time.monotonic()
    assert run(notified, told).returncode == 0
    usual = time.monotonic() - started
    told.answers |= {"hooks.slack.com": "hang", "discord.com": 500}
    setup(
        notified, {"receivers": told.contract() | {"mail": told.contract()["mail"] | {"port": 1}}}
    )
    notified.model("first", TABLE + "select 1 / 0 as id")
    started = time.monotonic()
    done = run(notified, told)
    # THEN the run failed for its own reason, and not much later than without
    assert done.returncode == 1
    assert time.monotonic() - started < 3 * usual + 15
    assert "division by zero" in done.stderr
    log = done.stdout + done.stderr
    assert "Could not send a notification through block slack-webhook/notify-scratch--team: " in log
    assert (
        "Could not send a notification through block discord-webhook/notify-scratch--discord" in log
    )
    assert "Could not send a notification through block slack-webhook/notify-scratch--mail" in log
    assert all(secret not in log for secret in SECRETS)
    # AND the others were told
    assert len(told.of("hooks.example.com")) == 1, log
    assert len(told.of("prod-01.westeurope.logic.azure.com")) == 1, log
    # AND the health check says what waits, and for whom
    health = notified.run("-m", "infrastructure.cli", "health", "scratch", "--json")
    checks = {check["name"]: check for check in json.loads(health.stdout)["checks"]}
    assert checks["notices"]["status"] == "warning"
    assert checks["notices"]["message"].startswith("1 unsent since")
    assert "notify-scratch--team" in checks["notices"]["message"]
    # WHEN they answer again, THEN the next run tells them, and the others nothing
    told.answers.clear()
    setup(notified, {"receivers": told.contract()})
    assert run(notified, told).returncode == 1
    assert len(told.of("hooks.slack.com")) == len(told.of("discord.com")) == 1
    assert len(told.mails) == 2
    assert len(told.of("hooks.example.com")) == 1
    assert state(notified, "outbox.json")["waiting"] == []


@pytest.mark.nightly
@pytest.mark.operations
def test_what_warns_and_what_is_wished_for(
    project: Project, notified: Scratch, told: Receivers
) -> None:
    events = ["failure", "warning", "success", "retry"]
    only = {"hook": told.contract()["hook"]}
    assert setup(notified, {"receivers": only, "events": events}).returncode == 0
    forget(project, but="--hook")
    notified.model("first", "select 1 as id")
    notified.properties(
        models=[
            {
                "name": "first",
                "columns": [
                    {
                        "name": "id",
                        "data_tests": [
                            {"accepted_values": {
                                "arguments": {"values": [2]}, "config": {"severity": "warn"}}}
                        ],
                    }
                ],
            }
        ]
    )  # fmt: skip
    assert run(notified, told).returncode == 0
    subjects = [told.document["subject"] for told in told.told]
    assert len(subjects) == 2
    assert subjects[0].startswith("Millrace: scratch: test accepted_values_first_id__2")
    assert subjects[0].endswith("warns")
    assert subjects[1] == "Millrace: scratch: a run passed"
    # It still warns: told before. A recovery is not wished for.
    told.forget()
    assert run(notified, told).returncode == 0
    assert [told.document["subject"] for told in told.told] == ["Millrace: scratch: a run passed"]
    notified.properties(models=[])
    told.forget()
    assert run(notified, told).returncode == 0
    assert [told.document["subject"] for told in told.told] == ["Millrace: scratch: a run passed"]
    assert state(notified, "incidents.json") == []
    # A lost connection that passed at the second attempt is told as such.
    told.forget()
    notified.model("first", TABLE + "select 1 as id from pg_sleep(20)")
    process = notified.start_pipeline(
        **told.environment, MILLRACE_STAGES__DBT_RUN__RETRY_DELAY_SECONDS="0.1"
    )
    sleeping = """
        select pid from pg_stat_activity
        where query like '%pg_sleep(20)%' and pid <> pg_backend_pid()
    """

    def sessions() -> list[tuple[int]]:
        assert process.poll() is None, process.communicate()[0]
        return notified.query(sleeping)

    ((session,),) = until(sessions)
    notified.model("first", "select 1 as id")
    with closing(notified.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"select pg_terminate_backend({session})")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert [told.document["subject"] for told in told.told] == [
        "Millrace: scratch: a run passed", "Millrace: scratch: 1 retried",
    ]  # fmt: skip
    assert "model first: 2 attempts, then success" in told.told[1].document["body"]


@pytest.mark.example
@pytest.mark.operations
def test_owners_are_notified_of_a_startup_failure(
    project: Project, notified: Scratch, told: Receivers
) -> None:
    notified.model("first", "select 1 as id")
    # GIVEN a target whose profile is gone
    url = f"{project.api_url}/block_types/slug/dbt-cli-profile/block_documents/name"
    block = project.http.get(f"{url}/{profile_block('scratch')}").raise_for_status().json()
    project.http.delete(f"/block_documents/{block['id']}").raise_for_status()
    done = run(notified, told)
    # THEN the run fails as it did, and each receiver is told once
    assert done.returncode == 2
    assert "BlockMissing: Block 'dbt-cli-profile-scratch' does not exist" in done.stderr
    for host in HOSTS:
        (one,) = told.of(host)
        for said in ("Millrace: scratch: run failed", "millrace setup --target scratch"):
            assert said in texts_of(one)
    # AND a source's own flow tells of the same, which is known
    told.forget()
    own = ["prefect_flows/sources/nyc__flights/flow.py", "--target", "scratch"]
    done = notified.run(*own, **told.environment)
    assert done.returncode == 2
    assert "BlockMissing" in done.stderr
    assert told.told == []
    (incident,) = state(notified, "incidents.json")
    assert (incident["runs"], incident["name"]) == (2, "run")

    # WHEN setup has made it again, THEN they are told that it is good
    assert setup(notified, {"receivers": told.contract()}).returncode == 0
    assert run(notified, told).returncode == 0
    (one,) = told.of("hooks.slack.com")
    assert "run recovered" in texts_of(one)

    # GIVEN a target that no run can hold
    limit = f"{project.api_url}/v2/concurrency_limits/{concurrency_limit('scratch')}"
    project.http.delete(limit).raise_for_status()
    told.forget()
    assert run(notified, told).returncode == 2
    (one,) = told.of("hooks.slack.com")
    assert "The concurrency limit 'millrace-target-scratch' does not exist" in texts_of(one)
    assert setup(notified, {"receivers": told.contract()}).returncode == 0

    # GIVEN a target that there is not, of which nobody is told, THEN nothing is kept of it
    told.forget()
    assert notified.pipeline("--target", "nowhere", **told.environment).returncode == 2
    assert (told.told, told.mails) == ([], [])
    assert not (notified.local / "state" / "targets" / "nowhere").exists()
