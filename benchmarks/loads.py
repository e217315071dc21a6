"""How fast rows come into Postgres: our sources beside COPY, dlt as it comes, and pandas.

    uv run --with connectorx==0.4.6 python benchmarks/loads.py [--rows 1000000] [--rounds 3]
        [--slow-rounds 1] [--only sql__database,dlt]

Two tasks on one embedded Postgres: a table of one database into another (`sql__database`), and a
CSV file into a table (`files__inbox`): the first file of its table, whose types are found from its
rows, and one that comes later. Each contestant is a process of its own, in alternating
rounds; what it loaded is counted and summed. Measured are the seconds from its first statement to
its last, imports left out, and the most memory that its process had.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
from rich.console import Console
from rich.table import Table

from infrastructure.local import postgres

# The columns of flights, in their types, and a key.
ROWS = """
select i::bigint as id, 2013 as year, 1 + i % 12 as month, 1 + i % 28 as day, i * 7 % 2400 as
dep_time, i * 11 % 2400 as sched_dep_time, i % 200 - 20 as dep_delay, i * 13 % 2400 as arr_time,
i * 17 % 2400 as sched_arr_time, i % 300 - 40 as arr_delay, (array['UA','AA','DL','B6'])[1 + i % 4]
as carrier, i % 9999 as flight, 'N' || (i % 4000) as tailnum, 'JFK' as origin,
(array['LAX','SFO','ORD'])[1 + i % 3] as dest, i % 600 as air_time, i % 3000 as distance, i % 24 as
hour, i % 60 as minute, timestamptz '2013-01-01' + i % 8760 * interval '1 hour' as time_hour
from generate_series(1, {rows}) i
"""
# Of the file that makes a table known, where a later one is measured.
ROWS_BEFORE = 1_000
CHECK = "select count(*), sum(id), sum(dep_delay), count(distinct carrier), max(time_hour) from "

COMMON = """
import json, resource, sys, time
g = json.load(sys.stdin)
url, out, file, rows = g["url"], g["out"], g["file"], g["rows"]
def done(started):
    most = max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF,))
    print(json.dumps([time.perf_counter() - started, most / 1024]))
"""
COPY_TABLE = """
import os, threading, psycopg2
a, b = psycopg2.connect(url), psycopg2.connect(out)
b.cursor().execute(g["ddl"].format("copied"))
t = time.perf_counter()
r, w = os.pipe()
def read():
    with os.fdopen(w, "wb") as f:
        a.cursor().copy_expert("copy flights to stdout (format binary)", f, 1 << 16)
thread = threading.Thread(target=read); thread.start()
with os.fdopen(r, "rb") as f:
    b.cursor().copy_expert("copy copied from stdin (format binary)", f, 1 << 16)
thread.join(); b.commit(); done(t)
"""
COPY_FILE = """
import psycopg2
b = psycopg2.connect(out)
b.cursor().execute(g["ddl"].format("copied"))
t = time.perf_counter()
with open(file, "rb") as f:
    b.cursor().copy_expert("copy copied from stdin (format csv, header)", f, 1 << 16)
b.commit(); done(t)
"""
OURS = """
from prefect_flows.ingest.source_load import ingest
from prefect_flows.core.profiles import Profile
profile = Profile.from_output("millrace", "bench", g["output"])
ingest("{source}", profile, **g["before"]["{before}"])  # imports what a load imports
t = time.perf_counter()
ingest("{source}", profile, **g["arguments"]["{source}"]); done(t)
"""
DLT_TABLE = """
import dlt
from dlt.sources.sql_database import sql_table
p = dlt.pipeline("plain", destination=dlt.destinations.postgres(out), dataset_name="plain",
                 pipelines_dir=g["folder"])
t = time.perf_counter()
p.run(sql_table(url.replace("postgresql:", "postgresql+psycopg2:"), table="flights")); done(t)
"""
# Arrow in Parquet files, which ADBC loads: the fastest way of dlt's own.
DLT_ARROW = """
import dlt, adbc_driver_postgresql.dbapi, pyarrow.parquet
import {module}
from dlt.sources.sql_database import sql_table
p = dlt.pipeline("plain", destination=dlt.destinations.postgres(out), dataset_name="plain",
                 pipelines_dir=g["folder"])
t = time.perf_counter()
table = sql_table(url.replace("postgresql:", "postgresql+psycopg2:"), table="flights",
                  backend="{module}", backend_kwargs={options})
p.run(table, loader_file_format="parquet"); done(t)
"""
DLT_FILE = """
import os, dlt
from dlt.sources.filesystem import filesystem, read_csv
p = dlt.pipeline("plain", destination=dlt.destinations.postgres(out), dataset_name="plain",
                 pipelines_dir=g["folder"])
t = time.perf_counter()
files = filesystem(bucket_url="file://" + os.path.dirname(file), file_glob="*.csv") | read_csv()
p.run(files.with_name("flights")); done(t)
"""
PANDAS_TABLE = """
import pandas, sqlalchemy
driver = "postgresql+psycopg2:"
a, b = (sqlalchemy.create_engine(u.replace("postgresql:", driver)) for u in (url, out))
t = time.perf_counter()
with a.connect() as c:
    for part in pandas.read_sql("select * from flights", c.execution_options(stream_results=True),
                                chunksize=3000):
        part.to_sql("pandas", b, if_exists="append", index=False, method="multi")
done(t)
"""
PANDAS_FILE = """
import pandas, sqlalchemy
b = sqlalchemy.create_engine(out.replace("postgresql:", "postgresql+psycopg2:"))
t = time.perf_counter()
for part in pandas.read_csv(file, chunksize=3000, parse_dates=["time_hour"]):
    part.to_sql("pandas", b, if_exists="append", index=False, method="multi")
done(t)
"""


@dataclass(frozen=True)
class Contestant:
    """What it is, its program, the table it fills, and whether it takes minutes."""

    name: str
    program: str
    table: str
    slow: bool = False
    # It finds its own tables, and is the second load of them.
    again: bool = False
    # A package that is not of this project, without which it does not take part.
    needs: str | None = None


TASKS = {
    "a table into another database": [
        Contestant("COPY … TO … | COPY … FROM …", COPY_TABLE, "public.copied"),
        Contestant(
            "sql__database, first load",
            OURS.format(source="sql__database", before="sql__database"),
            "raw_sql__database.flights",
        ),
        Contestant(
            "sql__database, replacing",
            OURS.format(source="sql__database", before="sql__database"),
            "raw_sql__database.flights",
            again=True,
        ),
        Contestant(
            "dlt's sql_table, pyarrow backend",
            DLT_ARROW.format(module="pyarrow", options="{}"),
            "plain.flights",
        ),
        Contestant(
            "dlt's sql_table, connectorx backend",
            DLT_ARROW.format(module="connectorx", options='{"conn": g["socket_url"]}'),
            "plain.flights",
            needs="connectorx",
        ),
        Contestant(
            "dlt's sql_table, connectorx backend, streaming",
            DLT_ARROW.format(
                module="connectorx",
                options='{"conn": g["socket_url"], "return_type": "arrow_stream"}',
            ),
            "plain.flights",
            needs="connectorx",
        ),
        Contestant("dlt's sql_table, default settings", DLT_TABLE, "plain.flights", slow=True),
        Contestant("pandas, to_sql(method='multi')", PANDAS_TABLE, "public.pandas", slow=True),
    ],
    "a CSV file": [
        Contestant("COPY … FROM …", COPY_FILE, "public.copied"),
        Contestant(
            "files__inbox, first file",
            OURS.format(source="files__inbox", before="files__inbox"),
            "raw_files__inbox.flights",
        ),
        Contestant(
            "files__inbox, a later file",
            OURS.format(source="files__inbox", before="first file"),
            "raw_files__inbox.flights where _file = 'flights/flights.csv'",
        ),
        Contestant("dlt's read_csv, default settings", DLT_FILE, "plain.flights", slow=True),
        Contestant("pandas, to_sql(method='multi')", PANDAS_FILE, "public.pandas", slow=True),
    ],
}


class Ground:
    """The server, the table, the file, and an empty database before each round."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.server = postgres.start(folder / "local")
        self.folder, self.rows = folder, rows
        self.query("create database source")
        self.query("create table flights as " + ROWS.format(rows=rows), "source")
        self.query("alter table flights add primary key (id); vacuum analyze flights", "source")
        (folder / "one").mkdir()
        (folder / "one" / "one_row.csv").write_text("id\n1\n")
        inbox = folder / "inbox" / "flights"
        inbox.mkdir(parents=True)
        (folder / "first" / "flights").mkdir(parents=True)
        first = folder / "first" / "flights" / "first.csv"
        self._write(f"(select * from flights where id <= {ROWS_BEFORE})", first)  # noqa: S608
        self.file = inbox / "flights.csv"
        self._write("flights", self.file)
        self.expected = self.query(CHECK + "flights", "source")

    def _write(self, what: str, path: Path) -> None:
        with closing(self.connect("source")) as connection, path.open("wb") as file:
            connection.cursor().copy_expert(f"copy {what} to stdout (format csv, header)", file)

    def connect(self, database: str) -> Any:
        """A connection that commits each statement."""
        connection = psycopg2.connect(
            host=self.server.host, port=self.server.port, user=postgres.USER, dbname=database,
            options="-c timezone=UTC",
        )  # fmt: skip
        connection.autocommit = True
        return connection

    def query(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Rows of a statement; several are sent one by one."""
        with closing(self.connect(database)) as connection, connection.cursor() as cursor:
            for statement in sql.split("; "):
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def run(self, contestant: Contestant) -> tuple[float, float]:
        """Seconds and megabytes of a contestant.

        Raises:
            SystemExit: it did not load what there is.
        """
        if not contestant.again:
            self.query("drop database if exists bench with (force); create database bench")
            self.query("checkpoint")
        place = f"?host={self.server.host}&port={self.server.port}"
        url = f"postgresql://{postgres.USER}:x@localhost"
        with tempfile.TemporaryDirectory() as folder:
            given = {
                "url": f"{url}/source{place}",
                "out": f"{url}/bench{place}",
                "socket_url": f"postgresql://{postgres.USER}:x@{quote(self.server.host, safe='')}:"
                f"{self.server.port}/source",
                "file": str(self.file),
                "folder": folder,
                "rows": self.rows,
                "ddl": "create table {} (id bigint, " + ", ".join(  # noqa: S608
                    f"{name} {kind}" for name, kind in self.query(
                        "select attname, format_type(atttypid, atttypmod) from pg_attribute where "
                        "attrelid = 'flights'::regclass and attnum > 1 order by attnum", "source"
                    )
                ) + ")",
                "output": {
                    "type": "postgres", "host": self.server.host, "port": self.server.port,
                    "user": postgres.USER, "dbname": "bench", "password": "", "schema": "dev",
                    "threads": 4,
                },
                "arguments": {
                    "sql__database": {
                        "url": f"{url}/source{place}", "tables": {"flights": None}
                    },
                    "files__inbox": {"url": str(self.folder / "inbox"), "min_age_seconds": 0},
                },
                "before": {
                    "sql__database": {
                        "url": f"{url}/source{place}",
                        "tables": {"one_row": {"query": "select 1 as id"}},
                    },
                    "files__inbox": {"url": str(self.folder / "one"), "min_age_seconds": 0},
                    "first file": {"url": str(self.folder / "first"), "min_age_seconds": 0},
                },
            }  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", COMMON + contestant.program],
                input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
        found = self.query(CHECK + contestant.table, "bench")
        if found != self.expected:
            raise SystemExit(f"{contestant.name} loaded {found}, and there is {self.expected}.")
        seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
        return seconds, megabytes


def main() -> None:
    """Run the rounds and print a table for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow-rounds", type=int, default=1, help="of what takes minutes")
    parser.add_argument("--only", default="", help="parts of names, of what runs beside COPY")
    options = parser.parse_args()
    console = Console(width=120)

    def wanted(contestant: Contestant) -> bool:
        missing = contestant.needs is not None and find_spec(contestant.needs) is None
        if missing:
            console.print(f"{contestant.name}: {contestant.needs} is not installed")
        named = any(part in contestant.name for part in options.only.split(","))
        return named and not missing

    with tempfile.TemporaryDirectory() as name:
        try:
            ground = Ground(Path(name), options.rows)
            for task, (limit, *others) in TASKS.items():
                contestants = [limit, *(each for each in others if wanted(each))]
                measured: dict[str, list[tuple[float, float]]] = {c.name: [] for c in contestants}
                for number in range(options.rounds):
                    for contestant in contestants:
                        if not contestant.slow or number < options.slow_rounds:
                            took = ground.run(contestant)
                            measured[contestant.name].append(took)
                            console.print(f"{contestant.name}: {took[0]:.1f} s", markup=False)
                console.print(_table(task, options.rows, measured))
        finally:
            postgres.stop(Path(name) / "local")


def _table(task: str, rows: int, measured: dict[str, list[tuple[float, float]]]) -> Table:
    table = Table("contestant", "rows/s", "of COPY", "all, s", "peak, MB",
                  title=f"{task}, {rows:,} rows", title_justify="left")  # fmt: skip
    limit = statistics.median(seconds for seconds, _ in next(iter(measured.values())))
    for name, runs in measured.items():
        if not runs:
            continue
        median = statistics.median(seconds for seconds, _ in runs)
        table.add_row(
            name, f"{rows / median:,.0f}", f"{limit / median:.2f}",
            ", ".join(f"{seconds:.1f}" for seconds, _ in runs),
            f"{max(megabytes for _, megabytes in runs):,.0f}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
