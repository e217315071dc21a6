"""A dbt project of a given number of nodes: one third tables, two thirds data tests.

The same number gives the same project. The tables lie in layers: a few roots, and others that
join one or two tables of the layer before. Their SQL is trivial, so that what is measured is what
runs it. Every root writes down when it starts, by the clock of this machine.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

SCHEMA = "built"
ROWS = 100
LAYERS_ABOVE_THE_ROOTS = 5
# It is made with the database, before anybody's clock runs.
STARTED = "bench.started"
MAKE_STARTED = f"create schema bench; create table {STARTED} (at timestamptz)"
NOTE_START = f"insert into {STARTED} select clock_timestamp()"
# SQLMesh's names of dbt's tests.
AUDITS = {"not_null": "not_null", "unique": "unique_values"}

PROJECT = {
    "name": "bench",
    "profile": "millrace",
    "flags": {"send_anonymous_usage_stats": False},
    "models": {
        "+materialized": "table",
        "bench": {"roots": {"+pre-hook": NOTE_START}},
    },
}


@dataclass(frozen=True)
class Model:
    """A table: what it reads, and the tests on it, as (column, test)."""

    name: str
    parents: tuple[str, ...]
    tests: tuple[tuple[str, str], ...]

    @property
    def sql(self) -> str:
        """The model's text."""
        if not self.parents:
            return f"select n as id, n % 7 as value from generate_series(1, {ROWS}) as n\n"  # noqa: S608
        first, *others = (f"{{{{ ref('{parent}') }}}}" for parent in self.parents)
        if not others:
            return f"select id, value + 1 as value from {first}\n"  # noqa: S608
        return (
            "select a.id, a.value + b.value as value\n"
            f"from {first} as a\ninner join {others[0]} as b on a.id = b.id\n"
        )

    @property
    def sqlmesh(self) -> str:
        """The same table and tests as a native SQLMesh model."""
        audits = ", ".join(f"{AUDITS[test]}(columns := ({column}))" for column, test in self.tests)
        before = "" if self.parents else f"{NOTE_START};\n"
        sql = re.sub(r"{{ ref\('(\w+)'\) }}", rf"{SCHEMA}.\1", self.sql)
        return f"MODEL (name {SCHEMA}.{self.name}, kind FULL, audits ({audits}));\n{before}{sql}"

    @property
    def properties(self) -> dict[str, object]:
        """The model's entry in the yml."""
        columns: dict[str, list[str]] = {}
        for column, test in self.tests:
            columns.setdefault(column, []).append(test)
        return {
            "name": self.name,
            "columns": [{"name": name, "data_tests": tests} for name, tests in columns.items()],
        }


def models(nodes: int) -> list[Model]:
    """The tables of a project of so many nodes, parents first."""
    tables = nodes // 3
    choose = random.Random(nodes)  # noqa: S311
    roots = max(1, tables // 20)
    width = max(1, -(-(tables - roots) // LAYERS_ABOVE_THE_ROOTS))
    made: list[Model] = []
    before: list[str] = []
    layer: list[str] = []
    for number in range(tables):
        if number >= roots and (number - roots) % width == 0:
            before, layer = layer, []
        parents = choose.sample(before, min(len(before), choose.choice((1, 2))))
        tests = [("id", "not_null"), ("id", "unique")]
        if number < nodes - 3 * tables:  # what the division by three left over
            tests.append(("value", "not_null"))
        layer.append(f"table_{number:04}")
        made.append(Model(layer[-1], tuple(parents), tuple(tests)))
    return made


def scans(project: list[Model]) -> dict[str, int]:
    """How often each table is read at least when every child is built and every test is run.

    One scan counts the nulls of several columns.
    """
    read = Counter({model.name: len({test for _, test in model.tests}) for model in project})
    read.update(parent for model in project for parent in model.parents)
    return dict(read)


def write_sqlmesh(folder: Path, project: list[Model]) -> None:
    """Write the same tables and tests as native SQLMesh models, without the `config.yaml`."""
    (folder / "models").mkdir(parents=True)
    for model in project:
        (folder / "models" / f"{model.name}.sql").write_text(model.sqlmesh)


def write(folder: Path, project: list[Model]) -> None:
    """Write the dbt project into a folder of its own."""
    for name in ("roots", "layers"):
        (folder / "models" / name).mkdir(parents=True)
        part = [model for model in project if bool(model.parents) == (name == "layers")]
        for model in part:
            (folder / "models" / name / f"{model.name}.sql").write_text(model.sql)
        document = {"models": [model.properties for model in part]}
        if part:
            (folder / "models" / name / f"_{name}.yml").write_text(
                yaml.safe_dump(document, sort_keys=False)
            )
    (folder / "dbt_project.yml").write_text(yaml.safe_dump(PROJECT, sort_keys=False))
