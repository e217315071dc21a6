"""Causes come from the database's own codes: raised by a real Postgres wherever it can be."""

from __future__ import annotations

import psycopg2
import pytest

from prefect_flows.causes import Cause, cause_of, postgres_cause
from tests.support.project import Project


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("40001", Cause.TRANSIENT),
        ("40P01", Cause.TRANSIENT),
        ("53300", Cause.TRANSIENT),
        ("55P03", Cause.TRANSIENT),
        ("57P03", Cause.TRANSIENT),
        ("08006", Cause.TRANSIENT),
        ("57014", Cause.CANCELLED),
        ("28P01", Cause.CONFIGURATION),
        ("3F000", Cause.CONFIGURATION),
        ("42501", Cause.CONFIGURATION),
        ("53100", Cause.CONFIGURATION),
        ("22012", Cause.CODE),
        ("42601", Cause.CODE),
        ("23505", Cause.CODE),
    ],
)
def test_a_code_raised_by_postgres(project: Project, code: str, cause: Cause) -> None:
    with pytest.raises(psycopg2.Error) as error:
        project.query(f"do $$ begin raise exception 'made up' using errcode = '{code}'; end $$")
    assert error.value.pgcode == code
    assert postgres_cause(error.value) is cause


def test_a_relation_that_does_not_exist(project: Project) -> None:
    with pytest.raises(psycopg2.Error) as error:
        project.query("select * from nowhere")
    assert postgres_cause(error.value) is Cause.CONFIGURATION


def test_a_connection_that_is_cut(project: Project) -> None:
    victim = project.connect()
    with victim.cursor() as cursor:
        cursor.execute("select pg_backend_pid()")
        ((pid,),) = cursor.fetchall()
        project.query(f"select pg_terminate_backend({pid})")
        with pytest.raises(psycopg2.Error) as error:
            cursor.execute("select 1")
        assert postgres_cause(error.value) is Cause.TRANSIENT
        with pytest.raises(psycopg2.Error) as closed:
            victim.cursor()
        assert postgres_cause(closed.value) is Cause.TRANSIENT


def test_a_server_that_refuses() -> None:
    with pytest.raises(psycopg2.OperationalError) as error:
        psycopg2.connect(host="127.0.0.1", port=9)
    assert postgres_cause(error.value) is Cause.TRANSIENT


def test_the_database_error_is_found_behind_others() -> None:
    def wrapped() -> None:
        try:
            psycopg2.connect(host="127.0.0.1", port=9)
        except psycopg2.OperationalError as error:
            raise ValueError("dbt's own words") from error

    with pytest.raises(ValueError, match="own words") as error:
        wrapped()
    assert cause_of(error.value) is Cause.TRANSIENT
    assert cause_of(ValueError("a macro failed")) is Cause.CODE
