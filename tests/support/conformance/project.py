"""One dbt project through two doors: dbt's command line, and the pipeline.

Each door has a place of its own in a warehouse: see `conformance_on_postgres.py` and
`conformance_on_bigquery.py`. What is in the two places has the same names, so that everything can
be compared as it stands.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from tests.support.conformance.truth import Relation, Truth, statuses_in, statuses_in_log
from tests.support.project import CONFORMANCE_DBT, Project, neighbour

Strategy = Literal["run_then_test", "build"]
Side = Literal["dbt", "pipeline"]
SIDES: tuple[Side, ...] = ("dbt", "pipeline")

# What the command line is asked for, in the pipeline's order; the first failing one is the last.
STAGES: dict[Strategy, dict[str, list[str]]] = {
    "run_then_test": {
        "freshness": ["source", "freshness"],
        "seed": ["seed"],
        "snapshot": ["snapshot"],
        "run": ["run"],
        "test": ["test"],
    },
    "build": {"freshness": ["source", "freshness"], "build": ["build"]},
}
# Threads of dbt by target. Where a failure stops the rest, one thread makes it the same rest.
TARGETS = {"conformance": 4, "conformance-serial": 1}


@dataclass(frozen=True)
class Scenario:
    """What is in trouble, what of the project is run, and how often.

    Attributes:
        troubles: names of what is switched on in the project.
        select: nodes to run; everything when empty.
        skip: stages to leave out.
        unselected: stages that hold no node of the selection, which the pipeline has to find out
            and the command line is not asked for: to ask it would change nothing but take long.
        flags: flags of `dbt_project.yml`.
        strategies: the strategies that it is run with.
        again: stages that a second pass leaves out, which is made after the sources have changed;
            none for no second pass.
    """

    name: str
    troubles: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    unselected: tuple[str, ...] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    target: str = "conformance"
    strategies: tuple[Strategy, ...] = ("run_then_test", "build")
    again: tuple[str, ...] | None = None

    def variables(self) -> str:
        """The value of `--vars`; the batches begin two days ago."""
        begin = (datetime.now(UTC) - timedelta(days=2)).date().isoformat()
        return json.dumps({"troubles": list(self.troubles), "begin": begin})


class Warehouse(Protocol):
    """Where each door has a place of its own.

    Attributes:
        environment: variables that every process needs to reach it.
    """

    @property
    def environment(self) -> Mapping[str, str]: ...

    def target(self, side: Side) -> dict[str, Any]:
        """A door's place as a target of Terraform's outputs."""

    def in_profile(self, side: Side) -> dict[str, str]:
        """What makes a dbt profile that of a door's place."""

    def clear(self, side: Side) -> None:
        """Leave nothing in a door's place but an empty schema for the sources."""

    def execute(self, side: Side, statements: str) -> None:
        """Execute statements, in which `{raw}` is the sources' schema, and `{datetime}` a type."""

    def insert(self, side: Side, table: str, rows: list[tuple[Any, ...]]) -> None:
        """Fill a source."""

    def relations(self, side: Side) -> dict[str, Relation]:
        """Every relation of a door's place, by `schema.name`, alike for both doors."""


class Doors:
    """The project of the scenarios, its two places, and the two ways of running it.

    With `publish`, the pipeline's target publishes every model, seed and snapshot.
    """

    def __init__(
        self, project: Project, folder: Path, warehouse: Warehouse, *, publish: bool = False
    ) -> None:
        self.warehouse = warehouse
        self.publish = publish
        self.project = neighbour(project, folder, CONFORMANCE_DBT)
        self.project.environment = warehouse.environment
        self._set_up()

    def _set_up(self) -> None:
        """Blocks for the pipeline; for the command line, the same profile with its own place."""
        own = self.warehouse.target("pipeline")
        given = {"publish": True} if self.publish else {}
        targets = {name: own | given | {"threads": threads} for name, threads in TARGETS.items()}
        outputs = self.project.folder / "outputs.json"
        outputs.write_text(json.dumps({"dbt_targets": {"value": targets}}))
        chosen = [argument for name in TARGETS for argument in ("--target", name)]
        done = self.project.setup("--outputs", str(outputs), *chosen)
        assert done.returncode == 0, done.stdout + done.stderr

        document = yaml.safe_load((self.project.folder / "dbt" / "profiles.yml").read_text())
        for output in document["millrace"]["outputs"].values():
            output.update(self.warehouse.in_profile("dbt"))
            output.pop("publish", None)
        self.command_line = self.project.folder / "command_line"
        self.command_line.mkdir()
        (self.command_line / "profiles.yml").write_text(yaml.safe_dump(document))

    def compared(self, scenario: Scenario, strategy: Strategy) -> list[tuple[Truth, Truth]]:
        """Run a scenario through both doors; for each pass what dbt, and what the pipeline left."""
        self.prepare(scenario)
        passes = [self._both(scenario, strategy)]
        if scenario.again is not None:
            for side in SIDES:
                self.warehouse.execute(side, CHANGES)
            passes.append(self._both(replace(scenario, skip=scenario.again), strategy))
        return passes

    def _both(self, scenario: Scenario, strategy: Strategy) -> tuple[Truth, Truth]:
        """Both doors at once: they share a server, and neither a place in it nor a folder."""
        with ThreadPoolExecutor(2) as pool:
            dbt = pool.submit(self.by_command_line, scenario, strategy)
            pipeline = pool.submit(self.by_pipeline, scenario, strategy)
            return dbt.result(), pipeline.result()

    def prepare(self, scenario: Scenario) -> None:
        """The project's flags, nothing of an earlier scenario, and the sources."""
        file = self.project.folder / "dbt" / "dbt_project.yml"
        settings = yaml.safe_load((CONFORMANCE_DBT / "dbt_project.yml").read_text())
        settings["flags"] |= scenario.flags
        if self.publish:
            for kind in ("models", "seeds", "snapshots"):
                settings[kind]["conformance"]["+meta"] = {"publish": True}
        file.write_text(yaml.safe_dump(settings, sort_keys=False))
        shutil.rmtree(state_folder(self.project, scenario.target), ignore_errors=True)
        now = datetime.now(UTC)
        for side in SIDES:
            self.warehouse.clear(side)
            self.warehouse.execute(side, SOURCES)
            for table, rows in source_rows(now).items():
                self.warehouse.insert(side, table, rows)

    def by_command_line(self, scenario: Scenario, strategy: Strategy) -> Truth:
        """Command after command. Each overwrites what the one before left in the target folder."""
        target_path, log_path = self.command_line / "target", self.command_line / "logs"
        statuses: dict[str, tuple[str, int | None]] = {}
        said, failed = "", False
        for stage, command in STAGES[strategy].items():
            if stage in scenario.skip or stage in scenario.unselected:
                continue
            shutil.rmtree(log_path, ignore_errors=True)
            for artifact in ("run_results.json", "sources.json"):
                (target_path / artifact).unlink(missing_ok=True)
            done = self.project.dbt(
                *command,
                *(["--select", *scenario.select] if scenario.select else []),
                *("--vars", scenario.variables(), "--target", scenario.target),
                *("--profiles-dir", str(self.command_line), "--target-path", str(target_path)),
                *("--log-path", str(log_path), "--log-format-file", "json"),
            )
            said += done.stdout + done.stderr
            if stage == "freshness":
                statuses |= statuses_in_log(log_path / "dbt.log")
            else:
                statuses |= statuses_in(target_path)
            if done.returncode != 0:
                failed = True
                break
        return Truth(failed, statuses, self.warehouse.relations("dbt"), said)

    def by_pipeline(self, scenario: Scenario, strategy: Strategy) -> Truth:
        skipped = [
            argument
            for stage in scenario.skip
            if stage in STAGES[strategy]
            for argument in ("--skip", stage)
        ]
        selected = [argument for node in scenario.select for argument in ("--select", node)]
        other = [] if strategy == "run_then_test" else ["--strategy", strategy]
        done = self.project.pipeline(
            *(
                "--target",
                scenario.target,
                "--skip",
                "ingest",
                "--skip",
                "docs",
                "--vars",
                scenario.variables(),
            ),
            *skipped,
            *selected,
            *other,
        )
        said = done.stdout + done.stderr
        assert done.returncode in {0, 1}, f"the pipeline did not run:\n{said}"
        statuses = pipeline_statuses(self.project, scenario.target)
        return Truth(done.returncode != 0, statuses, self.warehouse.relations("pipeline"), said)


def state_folder(project: Project, target: str) -> Path:
    """Where the pipeline keeps the results of a target's last run."""
    return project.local / "state" / "targets" / target


def pipeline_statuses(project: Project, target: str) -> dict[str, tuple[str, int | None]]:
    """Status and failures of every node of the pipeline's last run, all stages merged."""
    folder = state_folder(project, target)
    assert folder.exists(), f"the pipeline left no results in {folder}"
    return statuses_in(folder)


SOURCES = """
create table {raw}.hook_log (hook {text}, command {text}, target {text});
create table {raw}.orders (
    order_id integer, customer_id integer, amount integer, updated_at {datetime},
    loaded_at {instant}
);
create table {raw}.customers (customer_id integer, name {text}, loaded_at {instant});
create table {raw}.archive (loaded_at {instant});
create table {raw}.events (event_id integer, happened_at {instant}, divisor integer);
"""

CHANGES = """
update {raw}.orders set amount = 11, updated_at = cast('2026-01-11' as {datetime})
where order_id = 1;
insert into {raw}.orders
select 6, 1, 20, cast('2026-01-11' as {datetime}), max(loaded_at) from {raw}.orders;
update {raw}.customers set name = 'Grace Hopper' where customer_id = 2;
delete from {raw}.customers where customer_id = 3;
"""


def source_rows(now: datetime) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of the sources, alike for both doors: a minute old, two days, and thirty."""
    fresh, stale, lost = (now - timedelta(minutes=m) for m in (1, 2 * 1440, 30 * 1440))
    amounts: Iterable[int] = (5, 10, 20, 30, 40)
    return {
        "orders": [
            (number, number % 3 + 1, amount, f"2026-01-0{number}", fresh)
            for number, amount in enumerate(amounts, start=1)
        ],
        "customers": [(1, "Ada", stale), (2, "Grace", stale), (3, "Mary", stale)],
        "archive": [(lost,)],
        # The batch of yesterday is the one that fails.
        "events": [(day, now - timedelta(days=day), 0 if day == 1 else 5) for day in range(3)],
    }
