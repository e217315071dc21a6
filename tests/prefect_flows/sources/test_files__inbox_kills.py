"""Killed with kill -9 wherever it is, and run again: each row is there exactly once."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.project import PATIENCE, REPOSITORY, until

pytestmark = pytest.mark.kills

LOAD = """
import json, sys
from prefect_flows.ingest.source_load import ingest
from prefect_flows.core.profiles import Profile
output, arguments = json.loads(sys.argv[1])
ingestion = ingest("files__inbox", Profile.from_output("millrace", "test", output), **arguments)
print(json.dumps(ingestion.rows))
"""
SCHEMA = "raw_files__inbox"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(database, inbox: Path, tmp_path: Path) -> Iterator[Start]:
    """A load in a process of its own."""
    started: list[subprocess.Popen[str]] = []
    (tmp_path / "temporary").mkdir()

    def run(**arguments: object) -> subprocess.Popen[str]:
        given = {"url": str(inbox), "min_age_seconds": 0} | arguments
        process = subprocess.Popen(
            [sys.executable, "-c", LOAD, json.dumps([dict(database.profile.output), given])],
            # What a killed load leaves behind in it goes with the test.
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "TMPDIR": str(tmp_path / "temporary"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> dict[str, int]:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def put_rows(inbox: Path, name: str, start: int, count: int) -> None:
    text = "id,name,at\n" + "".join(
        f"{number},name {number},2024-01-01 00:00:00\n" for number in range(start, start + count)
    )
    file = inbox / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode(), 1) if name.endswith(".gz") else text.encode())


@contextmanager
def nothing_is_marked(database) -> Iterator[Callable[[], None]]:
    """Nobody can write into `_dlt_loads`; gives a function that waits until somebody tries to."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"lock table {SCHEMA}._dlt_loads in share row exclusive mode")

        def wait() -> None:
            until(lambda: database.query("select 1 from pg_locks where not granted"))

        yield wait
        # The server's end of the killed process would go on as soon as it can.
        database.query(
            "select pg_terminate_backend(pid) from pg_locks where not granted and pid is not null"
        )


def kill_before_it_is_marked(database, start: Start, **arguments: object) -> None:
    with nothing_is_marked(database) as wait:
        process = start(**arguments)
        wait()
        process.kill()
        process.wait()


def counted(database, table: str = "orders") -> tuple:
    (found,) = database.query(
        f"select count(*), count(distinct id), count(distinct _file), sum(id) from {SCHEMA}.{table}"
    )
    return found


def test_killed_between_loading_and_marking(database, inbox, start) -> None:
    # GIVEN a complete load, and new files: whole, and malformed
    put_rows(inbox, "orders/1.csv", 0, 1_000)
    ended(start())
    put_rows(inbox, "orders/2.csv", 1_000, 200_000)
    put_rows(inbox, "orders/3.csv.gz", 201_000, 1_000)
    put_rows(inbox, "other/1.csv", 0, 10)
    (inbox / "orders/bad.csv").write_text("id,name,at\n1,x\n")
    # WHEN it is killed when all rows are in the tables, and not marked
    kill_before_it_is_marked(database, start)
    assert counted(database)[0] == 202_000, "the rows of the killed load are there"
    # THEN they are loaded again, and are there once
    assert ended(start()) == {"orders": 201_000, "other": 10, "_files": 4}
    assert counted(database) == (202_000, 202_000, 3, sum(range(202_000)))
    assert counted(database, "other")[0] == 10
    assert database.query(
        f"select file, status, row_count, line_number, reason from {SCHEMA}._files"
        " order by _dlt_load_id, file"
    ) == [
        ("orders/1.csv", "loaded", 1_000, None, None),
        ("orders/2.csv", "loaded", 200_000, None, None),
        ("orders/3.csv.gz", "loaded", 1_000, None, None),
        ("orders/bad.csv", "quarantined", 0, 2, "it has 2 values, and the header 3"),
        ("other/1.csv", "loaded", 10, None, None),
    ]
    assert ended(start()) == {"orders": 0, "other": 0, "_files": 0}


@pytest.mark.nightly
def test_killed_in_the_first_load_and_the_file_has_other_types_then(database, inbox, start) -> None:
    put_rows(inbox, "other/1.csv", 0, 10)
    ended(start())
    put_rows(inbox, "orders/1.csv", 0, 1_000)
    kill_before_it_is_marked(database, start)
    (inbox / "orders/1.csv").write_text("id,name\n0.5,5\n")
    # The table is there, and its types hold.
    assert ended(start())["orders"] == 0
    assert database.query(f"select reason from {SCHEMA}._files where file = 'orders/1.csv'") == [
        ("column 'id': '0.5' is not a bigint",)
    ]
    (inbox / "orders/1.csv").write_text("id,name\n7,x\n")
    assert ended(start())["orders"] == 1
    assert counted(database)[0] == 1


@pytest.mark.nightly
def test_killed_while_rows_are_replaced(database, inbox, start) -> None:
    # GIVEN a file that changed, killed when its new rows are in the table, and not marked
    put_rows(inbox, "orders/1.csv", 0, 1_000)
    put_rows(inbox, "orders/2.csv", 1_000, 1_000)
    ended(start())
    put_rows(inbox, "orders/1.csv", 5_000, 1_000)
    kill_before_it_is_marked(database, start)
    # WHEN it changes back to what the last complete load had of it
    put_rows(inbox, "orders/1.csv", 0, 1_000)
    assert ended(start())["orders"] == 1_000
    # THEN its rows are there: the ledger knew that they might be gone
    assert counted(database) == (2_000, 2_000, 2, sum(range(2_000)))


@pytest.mark.nightly
def test_killed_in_a_full_refresh_that_nobody_asks_for_again(database, inbox, start) -> None:
    put_rows(inbox, "orders/1.csv", 0, 1_000)
    put_rows(inbox, "orders/2.csv", 1_000, 1_000)
    ended(start())
    kill_before_it_is_marked(database, start, full_refresh=True)
    assert ended(start())["orders"] == 2_000
    assert counted(database) == (2_000, 2_000, 2, sum(range(2_000)))
    assert ended(start())["orders"] == 0


@pytest.mark.nightly
def test_killed_at_any_time(database, inbox, start) -> None:
    moments = random.Random(6)
    for number in range(20):
        put_rows(inbox, f"orders/{number}.csv", number * 20_000, 20_000)
    killed = 0
    for attempt in range(8):
        process = start()
        while process.poll() is None and not at_work(database):
            time.sleep(0.02)
        try:
            process.wait(moments.uniform(0, 2.5))
        except subprocess.TimeoutExpired:
            killed += 1
        process.kill()
        process.wait()
        # There is always something new to do.
        put_rows(inbox, f"orders/more-{attempt}.csv", 400_000 + attempt * 100, 100)
    assert killed >= 4
    ended(start())
    assert counted(database) == (400_800, 400_800, 28, sum(range(400_800)))
    assert database.query(
        f"select count(*), count(distinct file), sum(row_count) from {SCHEMA}._files"
    ) == [(28, 28, 400_800)]


def at_work(database) -> bool:
    """Whether somebody else is connected."""
    others = "datname = current_database() and pid <> pg_backend_pid()"
    return bool(database.query(f"select 1 from pg_stat_activity where {others}"))


@pytest.mark.nightly
def test_memory_does_not_grow_with_the_file(database, inbox, start) -> None:
    put_rows(inbox, "small/1.csv", 0, 1_000)
    small = peak(start())
    put_rows(inbox, "large/1.csv", 0, 1_000_000)
    large = peak(start())
    assert counted(database, "large") == (1_000_000, 1_000_000, 1, sum(range(1_000_000)))
    assert large < 500 << 20, f"{large >> 20} MB, and {small >> 20} MB for a small file"


def peak(process: subprocess.Popen[str]) -> int:
    """The most memory that a process has, in bytes."""
    watched, most = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            most = max(most, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.01)
    ended(process)
    return most
