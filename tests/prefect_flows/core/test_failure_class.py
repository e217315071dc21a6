"""Causes come from the database's own codes: raised by a real Postgres wherever it can be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from prefect_flows.core.errors import WarehouseUnreachable
from prefect_flows.core.failure_class import (
    FailureClass,
    classify,
    exception_chain,
    get_sqlstate,
    is_transient_refusal,
    postgres_cause,
    root_cause,
)
from prefect_flows.core.profiles import Profile
from prefect_flows.ingest.source_load import ingest
from tests.support.project import Project


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("40001", FailureClass.TRANSIENT),
        ("40P01", FailureClass.TRANSIENT),
        ("53300", FailureClass.TRANSIENT),
        ("55P03", FailureClass.TRANSIENT),
        ("57P03", FailureClass.TRANSIENT),
        ("08006", FailureClass.TRANSIENT),
        ("57014", FailureClass.CANCELLED),
        ("28P01", FailureClass.CONFIGURATION),
        ("3F000", FailureClass.CONFIGURATION),
        ("42501", FailureClass.CONFIGURATION),
        ("53100", FailureClass.CONFIGURATION),
        ("22012", FailureClass.CODE),
        ("42601", FailureClass.CODE),
        ("23505", FailureClass.CODE),
    ],
)
def test_a_code_raised_by_postgres(project: Project, code: str, cause: FailureClass) -> None:
    with pytest.raises(psycopg2.Error) as error:
        project.query(f"do $$ begin raise exception 'made up' using errcode = '{code}'; end $$")
    assert error.value.pgcode == code
    assert postgres_cause(error.value) is cause


def test_a_relation_that_does_not_exist(project: Project) -> None:
    with pytest.raises(psycopg2.Error) as error:
        project.query("select * from nowhere")
    assert postgres_cause(error.value) is FailureClass.CONFIGURATION


def test_a_connection_that_is_cut(project: Project) -> None:
    victim = project.connect()
    with victim.cursor() as cursor:
        cursor.execute("select pg_backend_pid()")
        ((pid,),) = cursor.fetchall()
        project.query(f"select pg_terminate_backend({pid})")
        with pytest.raises(psycopg2.Error) as error:
            cursor.execute("select 1")
        assert postgres_cause(error.value) is FailureClass.TRANSIENT
        with pytest.raises(psycopg2.Error) as closed:
            victim.cursor()
        assert postgres_cause(closed.value) is FailureClass.TRANSIENT


def test_a_server_that_refuses() -> None:
    with pytest.raises(psycopg2.OperationalError) as error:
        psycopg2.connect(host="127.0.0.1", port=9)
    assert postgres_cause(error.value) is FailureClass.TRANSIENT


def test_a_connection_that_a_crashing_server_closes_in_a_statement() -> None:
    """psycopg2 raises its plain class then; errors of its own, and of SQL, have a class each."""
    error = psycopg2.DatabaseError("server closed the connection unexpectedly")
    assert postgres_cause(error) is FailureClass.TRANSIENT
    assert postgres_cause(psycopg2.ProgrammingError("no results")) is FailureClass.CODE


@pytest.fixture
def refused(project: Project) -> Iterator[dict[str, Any]]:
    """How to connect to the server with a role that may not have a connection."""
    project.query("create role busy login connection limit 0; create role closed nologin")
    dev = project.dev
    yield {"host": dev["host"], "port": dev["port"], "dbname": "millrace", "user": "busy"}
    project.query("drop role busy; drop role closed")


def test_a_refused_connection_shows_the_message_of_the_server(refused: dict[str, Any]) -> None:
    """psycopg2 has no code of these."""
    for changed, code, cause in (
        ({}, "53300", FailureClass.TRANSIENT),
        ({"user": "nobody"}, "28000", FailureClass.CONFIGURATION),
        ({"user": "closed"}, "28000", FailureClass.CONFIGURATION),
        ({"user": "postgres", "dbname": "nowhere"}, "3D000", FailureClass.CONFIGURATION),
    ):
        with pytest.raises(psycopg2.OperationalError) as error:
            psycopg2.connect(**refused | changed)
        assert error.value.pgcode is None
        assert get_sqlstate(error.value) == code
        assert postgres_cause(error.value) is cause
        assert is_transient_refusal(error.value) is (cause is FailureClass.TRANSIENT)


@pytest.mark.parametrize(
    ("said", "code", "cause"),
    [
        ("FATAL:  the database system is starting up", "57P03", FailureClass.TRANSIENT),
        ("FATAL:  sorry, too many clients already", "53300", FailureClass.TRANSIENT),
        (
            "FATAL:  remaining connection slots are reserved for roles with …",
            "53300",
            FailureClass.TRANSIENT,
        ),
        (
            'FATAL:  password authentication failed for user "x"',
            "28000",
            FailureClass.CONFIGURATION,
        ),
        ('FATAL:  no pg_hba.conf entry for host "192.0.2.1"', "28000", FailureClass.CONFIGURATION),
        ('FATAL:  permission denied for database "x"', "42501", FailureClass.CONFIGURATION),
        ("FATAL:  Datenbank »x« existiert nicht", None, FailureClass.TRANSIENT),
        ('could not translate host name "role "x" does not exist"', None, FailureClass.TRANSIENT),
    ],
)
def test_what_a_server_says_when_it_refuses(
    said: str, code: str | None, cause: FailureClass
) -> None:
    error = psycopg2.OperationalError(f"connection to server at 192.0.2.1 failed: {said}\n")
    assert get_sqlstate(error) == code
    assert postgres_cause(error) is cause


@pytest.mark.example
def test_a_load_that_gets_no_connection_is_tried_again(
    refused: dict[str, Any], tmp_path: Path
) -> None:
    output = {"type": "postgres", "schema": "x", "threads": 1, "password": "", **refused}
    profile = Profile.from_output("millrace", "busy", output)
    with pytest.raises(WarehouseUnreachable, match='too many connections for role "busy"') as error:
        ingest("files__inbox", profile, url=str(tmp_path))
    assert error.value.retryable
    assert "allow more connections (max_connections" in error.value.fix


def test_the_root_of_an_error_is_not_what_was_handled_when_it_came_up() -> None:
    def fail(*, suppressed: bool = False) -> None:
        try:
            psycopg2.connect(host="127.0.0.1", port=9)
        except psycopg2.OperationalError as error:
            if suppressed:
                raise ValueError("own words") from None
            raise ValueError("own words") from error

    def failing(**options: bool) -> BaseException:
        try:
            next(iter(()))
        except StopIteration:
            try:
                {}["key"]
            except KeyError:
                try:
                    fail(**options)
                except ValueError as error:
                    return error
        raise AssertionError

    error = failing()
    assert root_cause(error) is error.__cause__
    assert [type(link) for link in exception_chain(error)] == [
        ValueError, psycopg2.OperationalError, KeyError,
    ]  # fmt: skip
    suppressed = failing(suppressed=True)
    assert root_cause(suppressed) is suppressed
    assert list(exception_chain(suppressed)) == [suppressed]


def test_the_database_error_is_found_behind_others() -> None:
    def wrapped() -> None:
        try:
            psycopg2.connect(host="127.0.0.1", port=9)
        except psycopg2.OperationalError as error:
            raise ValueError("dbt's own words") from error

    with pytest.raises(ValueError, match="own words") as error:
        wrapped()
    assert classify(error.value) is FailureClass.TRANSIENT
    assert classify(ValueError("a macro failed")) is FailureClass.CODE
