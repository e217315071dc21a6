"""Times runs with and without publishing, on an incremental fact that gets 1 % new rows.

    uv run python benchmarks/publish.py [--rows 10000000] [--rounds 5]

Makes a Postgres of its own in a temporary folder, and a project of a staging view, a dimension, an
incremental fact with a unique key, an aggregate, and tests. One target publishes, the other does
not; both read the same source. In each round the source gets 1 % new rows, and both targets run, in
turns, so that what else the machine does hits both. Before the rounds, all tables are vacuumed:
autovacuum does that in the hours between scheduled runs, and here it would run during the rounds
and be cancelled by them. Reports medians of whole processes, of the
stages, and the size of the tables on disk. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg2
import yaml

from infrastructure.local import postgres

REPOSITORY = Path(__file__).resolve().parents[1]
SCHEMAS = {"plain": "plain", "published": "published"}
PROJECT = {
    "name": "events",
    "profile": "millrace",
    "flags": {"send_anonymous_usage_stats": False},
    "models": {
        "events": {
            "marts": {"+schema": "marts", "+materialized": "table"},
            "staging": {"+schema": "staging", "+materialized": "view"},
        }
    },
}
MODELS = {
    "staging/stg_events": "select id, customer_id, amount, created_at from raw.events",
    "marts/dim_customers": (
        "select customer_id, count(*) as events from {{ ref('stg_events') }} group by 1"
    ),
    "marts/fct_events": (
        "{{ config(materialized='incremental', unique_key='id',"
        " indexes=[{'columns': ['id'], 'unique': true}]) }}\n"
        "select id, customer_id, amount, created_at from {{ ref('stg_events') }}\n"
        "{% if is_incremental() %} where id > (select max(id) from {{ this }}) {% endif %}"
    ),
    "marts/agg_customers": (
        "select customer_id, sum(amount) as amount from {{ ref('fct_events') }} group by 1"
    ),
}
TESTS = {
    "models": [
        {
            "name": "fct_events",
            "columns": [
                {"name": "id", "data_tests": ["unique", "not_null"]},
                {
                    "name": "customer_id",
                    "data_tests": [
                        {
                            "relationships": {
                                "arguments": {"to": "ref('dim_customers')", "field": "customer_id"}
                            }
                        }
                    ],
                },
            ],
        },
        {
            "name": "dim_customers",
            "columns": [{"name": "customer_id", "data_tests": ["unique", "not_null"]}],
        },
    ]
}
INSERT = """
insert into raw.events
select id, id %% 10007, (id %% 997)::numeric, timestamp '2026-01-01' + id * interval '1 second'
from generate_series(%s, %s) as id
"""


class Benchmark:
    """A Postgres, a project with two targets, and the source that both read."""

    def __init__(self, work: Path) -> None:
        self.work = work
        server = postgres.start(work / "local")
        self.connection: Any = psycopg2.connect(
            host=server.host, port=server.port, user=postgres.USER, dbname=postgres.DATABASE
        )
        self.connection.autocommit = True
        self.project = work / "project"
        dbt = self.project / "dbt"
        for name, text in MODELS.items():
            file = dbt / "models" / f"{name}.sql"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (dbt / "dbt_project.yml").write_text(yaml.safe_dump(PROJECT))
        (dbt / "models" / "marts" / "tests.yml").write_text(yaml.safe_dump(TESTS))
        output = {
            "type": "postgres", "host": server.host, "port": server.port, "user": postgres.USER,
            "password": "", "dbname": postgres.DATABASE, "threads": 4,
        }  # fmt: skip
        outputs = {
            name: output | {"schema": schema, "publish": name == "published"}
            for name, schema in SCHEMAS.items()
        }
        document = {"millrace": {"target": "plain", "outputs": outputs}}
        (dbt / "profiles.yml").write_text(yaml.safe_dump(document))
        self.rows = 0
        self.query("create schema raw")
        self.query(
            "create table raw.events"
            " (id bigint, customer_id bigint, amount numeric, created_at timestamp)"
        )

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement, and return its rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def add(self, rows: int) -> None:
        """Add rows to the source."""
        self.query(INSERT, self.rows + 1, self.rows + rows)
        self.rows += rows
        self.query("analyze raw.events")

    def run(self, target: str) -> dict[str, float]:
        """Run the pipeline; return seconds of the process and of its stages."""
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MILLRACE_"))
        }
        environment = inherited | {
            "PYTHONPATH": str(REPOSITORY),
            "MILLRACE_PROJECT_DIR": str(self.project),
        }
        command = [
            sys.executable, str(REPOSITORY / "prefect_flows" / "pipeline.py"),
            "--target", target, "--skip", "ingest", "--skip", "docs", "--no-prefect",
        ]  # fmt: skip
        started = time.monotonic()
        done = subprocess.run(
            command, cwd=self.project, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            sys.exit(done.stdout + done.stderr)
        seconds = {"process": time.monotonic() - started}
        runs = self.project / ".local" / "state" / "runs" / target
        summary = json.loads((max(runs.iterdir()) / "summary.json").read_text())
        return seconds | {stage["stage"]: stage["seconds"] for stage in summary["stages"]}

    def megabytes(self, schema: str) -> float:
        """Return the size of the tables and indexes of a target, in MB."""
        ((size,),) = self.query(
            "select sum(pg_total_relation_size(c.oid)) from pg_class as c"
            " join pg_namespace as n on n.oid = c.relnamespace"
            " where c.relkind = 'r' and n.nspname like %s",
            f"{schema}_%",
        )
        return float(size) / 1e6


def main(rows: int, rounds: int) -> None:
    """Measure and print."""
    work = Path(tempfile.mkdtemp(prefix="millrace-benchmark-"))
    work.chmod(0o755)
    try:
        benchmark = Benchmark(work)
        benchmark.add(rows)
        first = {target: benchmark.run(target) for target in SCHEMAS}
        # The second run makes the other slot: it copies all rows, once.
        benchmark.add(rows // 100)
        second = {target: benchmark.run(target) for target in SCHEMAS}
        benchmark.query("vacuum analyze")
        later: dict[str, list[dict[str, float]]] = {target: [] for target in SCHEMAS}
        for number in range(rounds):
            benchmark.add(rows // 100)
            for target in sorted(SCHEMAS, reverse=bool(number % 2)):
                later[target].append(benchmark.run(target))
        sizes = {target: benchmark.megabytes(schema) for target, schema in SCHEMAS.items()}
        benchmark.connection.close()
    finally:
        postgres.stop(work / "local")
        shutil.rmtree(work)
    medians = {
        target: {
            stage: statistics.median(run.get(stage, 0.0) for run in runs)
            for stage in sorted({stage for run in runs for stage in run})
        }
        for target, runs in later.items()
    }
    print(f"{rows:,} rows, 1 % new rows a run, medians of {rounds} runs, {os.cpu_count()} cores.\n")
    print("| | without | with publishing | ratio |\n|---|---|---|---|")
    lines = [
        ("first run, s", first["plain"]["process"], first["published"]["process"]),
        ("second run, s", second["plain"]["process"], second["published"]["process"]),
        ("later runs, s", medians["plain"]["process"], medians["published"]["process"]),
        *(
            (f"of which {stage}, s", medians["plain"].get(stage, 0.0), seconds)
            for stage, seconds in medians["published"].items()
            if stage != "process"
        ),
        ("disk, MB", sizes["plain"], sizes["published"]),
    ]
    for name, plain, published in lines:
        ratio = f"{published / plain:.2f}" if plain else ""
        print(f"| {name} | {plain:,.1f} | {published:,.1f} | {ratio} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    main(given.rows, given.rounds)
