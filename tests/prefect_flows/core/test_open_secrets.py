"""Secrets among what a run is given: refused before anything keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_flows.core.passwords import has_password, redact_url
from prefect_flows.state.runs import RunHeader
from tests.support.project import Project, Scratch

PASSWORD = "s3cret-word"
OF_DATABASE = {"sql__database": {"url": f"postgresql://reader:{PASSWORD}@db/shop", "tables": {}}}
OF_INBOX = {"files__inbox": {"url": f"ftp://reader:{PASSWORD}@files/inbox"}}


@pytest.fixture
def shop(scratch: Scratch) -> Iterator[str]:
    """A database with a table; its URL."""
    scratch.query("drop database if exists shop with (force)")
    scratch.query("create database shop")
    scratch.query("create table items as select 1 as id", "shop")
    dev = scratch.dev
    yield f"postgresql://{dev['user']}:{PASSWORD}@/shop?host={dev['host']}&port={dev['port']}"
    scratch.query("drop database shop with (force)")


def kept_by_prefect(project: Project) -> str:
    return json.dumps(
        [project.asked("flow_runs"), project.asked("artifacts"), project.asked("logs")]
    )


def kept_in_files(scratch: Scratch) -> list[str]:
    files = (file for file in scratch.folder.rglob("*") if file.is_file())
    return [file.name for file in files if PASSWORD.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("given", "place", "how"),
    [
        (
            ["--source-arguments", json.dumps(OF_DATABASE)],
            "sql__database.url",
            "millrace secret sql-database-url-scratch",
        ),
        # Though no source is read.
        (
            ["--source-arguments", json.dumps(OF_DATABASE), "--skip", "ingest"],
            "sql__database.url",
            "DBT_ENV_SECRET_SQL_DATABASE_URL_SCRATCH",
        ),
        (["--source-arguments", json.dumps(OF_INBOX)], "files__inbox.url", "`storage_options`"),
        (
            ["--vars", json.dumps({"apis": [f"https://me:{PASSWORD}@api"]})],
            "vars.apis.0",
            "env_var('DBT_ENV_SECRET_",
        ),
        (
            ["--vars", json.dumps({"crm": {"Api_Token": PASSWORD}})],
            "vars.crm.Api_Token",
            "env_var('DBT_ENV_SECRET_",
        ),
    ],
)
@pytest.mark.parametrize("api", [(), ("--no-prefect",)])
def test_a_secret_among_the_arguments_is_refused_and_kept_nowhere(
    project: Project,
    scratch: Scratch,
    given: list[str],
    place: str,
    how: str,
    api: tuple[str, ...],
) -> None:
    done = scratch.pipeline("--target", scratch.target, *given, *api)

    assert done.returncode == 2, done.stderr
    said = " ".join(done.stderr.split())
    assert f"where: argument {place} fix:" in said
    assert how in said
    assert PASSWORD not in done.stdout + done.stderr
    assert kept_in_files(scratch) == []
    assert PASSWORD not in kept_by_prefect(project)


def test_a_secret_in_the_url_of_an_inbox_is_refused_by_the_flow_of_the_source(
    project: Project, scratch: Scratch
) -> None:
    flow = ["-m", "prefect_flows.sources.files__inbox.flow", "--target", scratch.target]
    done = scratch.run(*flow, "--url", OF_INBOX["files__inbox"]["url"])

    assert done.returncode == 2, done.stderr
    assert "where: argument files__inbox.url" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr + kept_by_prefect(project)


def test_a_flow_run_that_a_secret_was_given_to_keeps_it_out_of_the_state_store(
    scratch: Scratch,
) -> None:
    # GIVEN a run of a deployment, whose parameters Prefect has stored before any code of ours runs
    code = (
        "from prefect_flows.pipeline import dbt_full_pipeline as run\n"
        f"run({scratch.target!r}, source_arguments={OF_DATABASE!r}, skip=['ingest'])"
    )
    done = scratch.run("-c", code)

    assert done.returncode != 0
    assert "ConfigurationError: 'url' of source 'sql__database' is a secret" in done.stderr
    assert "If the value is real, rotate it" in done.stderr
    assert kept_in_files(scratch) == []


def test_without_prefect_a_variable_stands_for_the_block(scratch: Scratch, shop: str) -> None:
    tables = {"sql__database": {"tables": {"items": None}}}
    given = ["--source", "sql__database", "--source-arguments", json.dumps(tables)]
    command = ["--target", scratch.target, "--no-prefect", *given, "--skip", "docs"]

    # GIVEN no variable, or an empty one: the error names it
    for environment in ({}, {"DBT_ENV_SECRET_SQL_DATABASE_URL_SCRATCH": ""}):
        done = scratch.pipeline(*command, **environment)
        assert done.returncode == 2, done.stderr
        assert "set DBT_ENV_SECRET_SQL_DATABASE_URL_SCRATCH in the environment" in done.stderr

    # WHEN the project's .env has it
    variable = f"DBT_ENV_SECRET_SQL_DATABASE_URL_SCRATCH='{shop}'\n"
    (scratch.folder / ".env").write_text(variable)
    done = scratch.pipeline(*command)

    assert done.returncode == 0, done.stderr
    rows = scratch.query("select count(*) from raw_sql__database.items", "scratch")
    assert rows == [(1,)]
    assert PASSWORD not in done.stdout + done.stderr
    assert kept_in_files(scratch) == [".env"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:pw@host/db", "postgresql://u:***@host/db"),
        ("postgresql://u:p@s/s@host/db", "postgresql://u:***@host/db"),
        ("postgresql://u:5432@host", "postgresql://u:***@host"),
        ("ftp://:pw@host", "ftp://:***@host"),
        ("see https://h/a?x=1&token=pw&y=2", "see https://h/a?x=1&token=***&y=2"),
        ("https://h/?api_key=pw", "https://h/?api_key=***"),
        ("https://host:8080/users/@me", "https://host:8080/users/@me"),
        ("https://host:8080/a?page=2", "https://host:8080/a?page=2"),
        ("gs://bucket/folder", "gs://bucket/folder"),
        ("postgresql://u@host/db", "postgresql://u@host/db"),
        ("12:30 somebody@example.com", "12:30 somebody@example.com"),
    ],
)
def test_passwords_of_urls_are_known_and_others_are_not(text: str, shown: str) -> None:
    assert redact_url(text) == shown
    assert has_password(text) is (shown != text)
    assert not has_password(shown)


def test_what_a_run_was_given_is_stored_without_passwords() -> None:
    given: dict[str, Any] = {
        "vars": {"a": [{"b": "s3://key:pw-1@bucket"}], "token_count": 9, "db_pwd": "pw-1"}
    }
    header = RunHeader(
        id="1", target="dev", parameters=given, url=None, started_at=datetime.now(UTC)
    )
    assert "pw-1" not in header.model_dump_json()
    assert header.parameters == {
        "vars": {"a": [{"b": "s3://key:***@bucket"}], "token_count": 9, "db_pwd": "***"}
    }
