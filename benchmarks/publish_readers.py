"""Whether readers of a Postgres target that publishes ever see rows that do not belong together.

    uv run python benchmarks/publish_readers.py [--runs 40] [--readers 4] [--seconds 600]
        [--snapshot-wait 60] [--seed 1]

The pipeline runs again and again: some runs have bad rows, some a model that fails, and some are
killed at a random moment, or during the switch. Meanwhile, readers join a fact, its dimension and
an aggregate. Half of them run single statements with READ COMMITTED, the others transactions of
several statements with REPEATABLE READ, which pause before and between the statements. Every
read has to find rows of one run only, whose sums agree. The exit code is 1 after a violation.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import yaml

from infrastructure.local import postgres

REPOSITORY = Path(__file__).resolve().parents[1]
TARGET = "soak"
FILES = {
    "dbt_project.yml": "name: soak\nprofile: millrace\n",
    "models/marts/dim.sql": (
        "{{ config(materialized='table') }} select n as customer, {{ var('run') }} as run"
        " from generate_series(1, 10 + {{ var('run') }}) as n"
    ),
    # Every run changes all rows, adds some, and keeps the others.
    "models/marts/fct.sql": (
        "{{ config(materialized='incremental', unique_key='id') }}"
        " select n as id, 1 + n % (10 + {{ var('run') }}) as customer,"
        " case when {{ var('bad') }} and n = 1 then -1 else n * {{ var('run') }} end as amount,"
        " {{ var('run') }} as run from generate_series(1, 2000 + {{ var('run') }}) as n"
    ),
    "models/marts/agg.sql": (
        "select customer, sum(f.amount / (1 - {{ var('fail') }})) as amount, max(f.run) as run"
        " from {{ ref('fct') }} as f join {{ ref('dim') }} as d using (customer) group by customer"
    ),
    "tests/no_bad_rows.sql": "select id from {{ ref('fct') }} where amount < 0",
    "tests/sums_agree.sql": (
        "select 1 where (select sum(amount) from {{ ref('fct') }})"
        " <> (select sum(amount) from {{ ref('agg') }})"
    ),
}
FCT = "select min(run), max(run), sum(amount), count(*) from soak.fct"
AGG = "select min(run), max(run), sum(amount), count(*) from soak.agg"
ORPHANS = (
    "select min(d.run), max(d.run), null, count(*) filter (where d.customer is null)"
    " from soak.fct as f left join soak.dim as d using (customer)"
)
# What a killed run leaves to its connections may take this long.
SETTLE_SECONDS = 5.0


def violation(fct: Any, agg: Any, dim: Any) -> str | None:
    """Return what is wrong with what a reader found, if anything."""
    runs = {*fct[:2], *agg[:2], *dim[:2]}
    if len(runs) != 1:
        return f"rows of several runs: {fct}, {agg}, {dim}"
    if fct[2] != agg[2]:
        return f"sums differ: {fct}, {agg}"
    (run,) = runs
    if run is None or fct[3] != 2000 + run or agg[3] != 10 + run or dim[3]:
        return f"rows are missing: {fct}, {agg}, {dim}"
    return None


def read(dsn: dict[str, Any], kind: str, seed: int, over: Any, results: Any) -> None:
    """Read until it is over; put the number of reads, the longest wait, violations and errors."""
    draw = random.Random(seed)  # noqa: S311 # no secret
    reads, longest = 0, 0.0
    problems: Counter[str] = Counter()
    connection = psycopg2.connect(**dsn, application_name=f"reader {kind}")
    if kind == "repeatable read":
        connection.set_session(isolation_level="REPEATABLE READ")
    else:
        connection.autocommit = True
    cursor = connection.cursor()

    def ask(query: str) -> list[Any]:
        nonlocal longest
        started = time.monotonic()
        cursor.execute(query)
        rows = cursor.fetchall()
        longest = max(longest, time.monotonic() - started)
        return rows

    while not over.is_set():
        try:
            if kind == "repeatable read":
                # The snapshot is of this statement.
                ask("select 1")
                time.sleep(draw.choice([0, 0.05, 0.3, 1.5]))
                found = []
                for query in draw.sample([FCT, AGG, ORPHANS], 3):
                    found.append((query, ask(query)[0]))
                    time.sleep(draw.choice([0, 0.02, 0.2]))
                connection.commit()
                answers = dict(found)
                problem = violation(answers[FCT], answers[AGG], answers[ORPHANS])
            else:
                problem = violation(*ask(f"{FCT} union all {AGG} union all {ORPHANS}"))
                time.sleep(draw.choice([0, 0.01, 0.1]))
        except psycopg2.Error as error:
            connection.rollback()
            problem = f"{type(error).__name__}: {error}"
        reads += 1
        if problem:
            problems[problem] += 1
    results.put((kind, reads, longest, dict(problems)))


class Soak:
    """A project on an embedded Postgres, and runs of its pipeline in forks of this process."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.draw = random.Random(seed)  # noqa: S311 # no secret
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []
        self.locked: list[float] = []
        (folder / "dbt").mkdir(parents=True)
        for name, text in FILES.items():
            file = folder / "dbt" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        server = postgres.start(folder / "server")
        self.dsn = {
            "host": server.host, "port": server.port, "user": postgres.USER,
            "dbname": postgres.DATABASE,
        }  # fmt: skip
        output = self.dsn | {
            "type": "postgres", "password": "", "schema": TARGET, "threads": 2, "publish": True,
        }  # fmt: skip
        profiles = {"millrace": {"target": TARGET, "outputs": {TARGET: output}}}
        (folder / "dbt" / "profiles.yml").write_text(yaml.safe_dump(profiles))
        os.environ |= {"MILLRACE_PROJECT_DIR": str(folder), "MILLRACE_PROJECT": "soak"}

    def seen(self) -> int | None:
        """Return the run that readers see."""
        with closing(psycopg2.connect(**self.dsn)) as connection:
            cursor = connection.cursor()
            cursor.execute("select to_regclass('soak.agg') is not null")
            if cursor.fetchone() != (True,):
                return None
            cursor.execute("select max(run) from soak.agg")
            return cursor.fetchone()[0]

    def start(self, number: int, *, bad: bool, fail: bool, kill_switch: float | None) -> int:
        """Start a run in a fork; return its process id."""
        values = {"run": number, "bad": bad, "fail": int(fail)}
        process = os.fork()
        if process:
            return process
        log = os.open(self.folder / "run.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = [
            "run", "--target", TARGET, "--no-prefect", "--skip", "ingest", "--skip", "docs",
            "--vars", json.dumps(values),
        ]  # fmt: skip
        import typer

        from prefect_flows.pipeline import main
        from prefect_flows.publish.postgres.warehouse import PostgresPublisher

        if kill_switch is not None:
            switch_once = PostgresPublisher._switch_once  # noqa: SLF001 # the moment to kill

            def killed(*arguments: Any) -> float:
                timer = threading.Timer(kill_switch, os.kill, (os.getpid(), signal.SIGKILL))
                timer.daemon = True
                timer.start()
                return switch_once(*arguments)

            PostgresPublisher._switch_once = killed  # type: ignore[method-assign]  # noqa: SLF001
        code = 1
        try:
            typer.run(main)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        finally:
            os._exit(code)

    def run(self, number: int, seconds: float) -> float:
        """Run the pipeline once, with some trouble; return its duration."""
        trouble = self.draw.choice(
            ["none", "none", "bad rows", "failing model", "killed", "killed in the switch"]
            if number > 1
            else ["none"]
        )
        before = self.seen()
        started = time.monotonic()
        process = self.start(
            number,
            bad=trouble == "bad rows",
            fail=trouble == "failing model",
            kill_switch=self.draw.uniform(0, 0.06) if trouble == "killed in the switch" else None,
        )
        if trouble == "killed":
            deadline = started + self.draw.uniform(0.2, 1.1) * seconds
            while time.monotonic() < deadline and os.waitpid(process, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
            if time.monotonic() < deadline:
                trouble = "killed too late"
            else:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
        else:
            _, status = os.waitpid(process, 0)
            code = os.waitstatus_to_exitcode(status)
            expected = {"none": 0, "bad rows": 1, "failing model": 1}.get(trouble)
            if expected is not None and code != expected:
                self.faults.append(f"run {number} ({trouble}) ended with {code}")
        duration = time.monotonic() - started
        if trouble.startswith("killed"):
            time.sleep(0.3)
        after = self.seen()
        allowed = {"none": {number}, "bad rows": {before}, "failing model": {before}}.get(
            trouble, {before, number}
        )
        if after not in allowed:
            self.faults.append(f"after run {number} ({trouble}), readers see run {after}")
        self.outcomes[trouble if after != number or trouble == "none" else f"{trouble}, shown"] += 1
        return duration


def report(found: list[tuple[str, int, float, dict[str, int]]]) -> Counter[str]:
    """Print what the readers found; return the violations."""
    problems: Counter[str] = Counter()
    for kind in ("read committed", "repeatable read"):
        of_kind = [each for each in found if each[0] == kind]
        counted: Counter[str] = Counter()
        for _, _, _, each in of_kind:
            counted += Counter(each)
        problems += counted
        print(
            f"{kind}: {sum(reads for _, reads, _, _ in of_kind)} reads, longest statement "
            f"{max((longest for _, _, longest, _ in of_kind), default=0):.2f} s, "
            f"{counted.total()} violations"
        )
    for text, times in problems.most_common(10):
        print(f"  {times} times: {text}")
    return problems


def main() -> int:
    """Run the pipeline and the readers, and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=600, help="begin no run after these")
    parser.add_argument("--snapshot-wait", type=float, help="seconds; 0 shows what it is for")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # Before the forks, which need not import it again.
    for module in ("dbt.adapters.postgres", "dbt.cli.main", "prefect_flows.pipeline"):
        importlib.import_module(module)
    from prefect_flows.publish.postgres import warehouse

    if options.snapshot_wait is not None:
        warehouse.SNAPSHOTS_TIMEOUT_SECONDS = options.snapshot_wait
    folder = Path(tempfile.mkdtemp(prefix="millrace-readers-"))
    context = multiprocessing.get_context("spawn")
    over, results = context.Event(), context.Queue()
    try:
        soak = Soak(folder / "project", options.seed)
        started = time.monotonic()
        seconds = soak.run(1, 0)
        readers = [
            context.Process(
                target=read,
                args=(soak.dsn, kind, options.seed + number, over, results),
            )
            for number in range(options.readers)
            for kind in [("read committed", "repeatable read")[number % 2]]
        ]
        for reader in readers:
            reader.start()
        number = 1
        while number < options.runs and time.monotonic() - started < options.seconds:
            number += 1
            duration = soak.run(number, seconds)
            seconds = max(seconds * 0.8, min(duration, 2 * seconds))
        over.set()
        found = [results.get(timeout=120) for _ in readers]
        for reader in readers:
            reader.join(60)
    finally:
        postgres.stop(folder / "project" / "server")
    print(f"{number} runs in {time.monotonic() - started:.0f} s: {dict(soak.outcomes)}")
    problems = report(found)
    for fault in soak.faults:
        print(f"  {fault}")
    if problems or soak.faults:
        print(f"The log of the runs is {folder / 'project' / 'run.log'}.")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
