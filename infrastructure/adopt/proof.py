"""Run the project with dbt's command line and with the pipeline, and compare what they leave.

Each has a scratch database on the embedded Postgres, in which schemas, tables and target have the
same names. Nothing else is read or written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import yaml
from psycopg2 import sql

from infrastructure.adopt.graph import BUILT, Graph
from infrastructure.local.postgres import DATABASE, USER, Postgres
from prefect_flows.core.errors import MillraceError
from prefect_flows.publish.models import find_ancestors
from prefect_flows.state.target_state import RUN_RESULTS
from prefect_flows.transform.reuse.volatility import find_in_code

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

DATABASES = {"dbt": "millrace_adopt_dbt", "pipeline": "millrace_adopt_pipeline"}
SCHEMA = "adopt"
# What a snapshot adds to each row: the time of the run, and a hash of it.
_SNAPSHOT_COLUMNS = ("dbt_scd_id", "dbt_updated_at", "dbt_valid_from", "dbt_valid_to")
# dbt's exit codes: all passed, and some nodes failed.
_RAN = (0, 1)
_RELATIONS = """
select n.nspname, c.relname, c.oid::regclass::text, array(
    select a.attname::text from pg_attribute as a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum
)
from pg_class as c
inner join pg_namespace as n on c.relnamespace = n.oid
where c.relkind in ('r', 'v', 'm', 'p') and n.nspname !~ '^(pg_|information_schema)'
"""


class ProofFailed(MillraceError):
    """dbt and the pipeline do not leave the same, or one of them does not run."""

    exit_code = 1


@dataclass(frozen=True)
class Table:
    """A relation in one of the databases.

    Attributes:
        columns: name → checksum of its values, whatever their order.
        rows: number of rows.
        checksum: checksum of whole rows, whatever their order.
    """

    columns: Mapping[str, int]
    rows: int
    checksum: int


@dataclass
class Proof:
    """What was compared.

    Attributes:
        statuses: status → number of nodes, which is the same for both.
        tables: one line for each table: name, rows, checksum, and what was not compared.
        differences: one line for each difference; none if all is the same.
    """

    statuses: Mapping[str, int] = field(default_factory=dict)
    tables: list[tuple[str, int, str, str]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def scratch_output(postgres: Postgres, side: str) -> dict[str, Any]:
    """Return the output of a dbt profile for a scratch database."""
    return {
        "type": "postgres", "host": postgres.host, "port": postgres.port, "user": USER,
        "password": "", "dbname": DATABASES[side], "schema": SCHEMA, "threads": 4,
    }  # fmt: skip


@contextmanager
def scratch_databases(postgres: Postgres) -> Iterator[None]:
    """Make both databases, empty, and remove them afterwards."""
    _recreate(postgres, create=True)
    try:
        yield
    finally:
        _recreate(postgres, create=False)


def _recreate(postgres: Postgres, *, create: bool) -> None:
    with closing(_connect(postgres, DATABASE)) as connection, connection.cursor() as cursor:
        for name in map(sql.Identifier, DATABASES.values()):
            cursor.execute(sql.SQL("drop database if exists {} with (force)").format(name))
            if create:
                cursor.execute(sql.SQL("create database {}").format(name))


def _connect(postgres: Postgres, database: str) -> Any:
    connection = psycopg2.connect(
        host=postgres.host, port=postgres.port, user=USER, dbname=database, connect_timeout=10
    )
    connection.autocommit = True
    return connection


def prove(
    folder: Path, postgres: Postgres, profile: str, target: str, manifest: Manifest, graph: Graph
) -> Proof:
    """Run the project both ways, and compare nodes and tables.

    Args:
        folder: a scratch folder, whose `dbt` is the project with its packages.
        postgres: the embedded Postgres, with the scratch databases.
        profile: name of the project's profile.
        target: name of the target; the project's macros may read it.
        manifest: the parsed project.
        graph: what the graph says.

    Raises:
        ProofFailed: dbt or the pipeline does not run.
    """
    for side in DATABASES:
        (folder / f"profiles-{side}").mkdir()
        outputs = {target: scratch_output(postgres, side)}
        (folder / f"profiles-{side}" / "profiles.yml").write_text(
            yaml.safe_dump({profile: {"target": target, "outputs": outputs}})
        )
    ours = _run_pipeline(folder, target)
    theirs = _run_dbt(folder, target, graph)
    proof = Proof(_count(theirs))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            proof.differences.append(
                f"{name}: dbt {_shown(theirs.get(name))}, the pipeline {_shown(ours.get(name))}"
            )
    _compare_tables(proof, postgres, manifest)
    return proof


def _run_dbt(folder: Path, target: str, graph: Graph) -> dict[str, tuple[str, int | None]]:
    """Run dbt's commands in the pipeline's order, up to the first that fails."""
    before = list(graph.other_snapshots)
    commands = [["seed"]]
    if before:
        commands.append(["snapshot", "--select", *before])
    if graph.snapshots_of_models:
        types = ["--resource-type", "model", "--resource-type", "snapshot"]
        commands.append(["build", *types, *(["--exclude", *before] if before else [])])
    else:
        commands.append(["run"])
    commands.append(["test"])
    statuses: dict[str, tuple[str, int | None]] = {}
    for number, command in enumerate(commands):
        made = folder / "dbt-target" / str(number)
        code = _run(
            folder / "dbt",
            {},
            ["-m", "dbt.cli.main", *command, "--target", target, "--profiles-dir",
             str(folder / "profiles-dbt"), "--target-path", str(made), "--log-path", str(made)],
        )  # fmt: skip
        statuses |= _statuses(made / RUN_RESULTS)
        if code != 0:
            break
    return statuses


def _run_pipeline(folder: Path, target: str) -> dict[str, tuple[str, int | None]]:
    """Run the pipeline on the scratch folder as its project, without Prefect."""
    state = folder / "state"
    environment = {
        "MILLRACE_PROJECT_DIR": str(folder),
        "MILLRACE_LOCAL_DIR": str(folder / "local"),
        "MILLRACE_PROFILES_DIR": str(folder / "profiles-pipeline"),
        "MILLRACE_STATE_URL": str(state),
    }
    skip = [argument for stage in ("ingest", "freshness", "docs") for argument in ("--skip", stage)]
    _run(
        folder,
        environment,
        ["-m", "infrastructure.cli", "run", "--no-prefect", "--target", target, *skip],
    )
    return _statuses(state / "targets" / target / RUN_RESULTS)


def _run(folder: Path, environment: Mapping[str, str], arguments: list[str]) -> int:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=os.environ | environment | {"PGPASSWORD": ""},
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="backslashreplace",
        check=False,
    )  # fmt: skip
    if done.returncode not in _RAN:
        raise ProofFailed(
            f"{' '.join(arguments[1:3])} did not run:\n{(done.stderr or done.stdout)[-3000:]}",
            where="the embedded Postgres",
            fix="correct what is said above; nothing was changed",
        )
    return done.returncode


def _statuses(file: Path) -> dict[str, tuple[str, int | None]]:
    results = json.loads(file.read_text())["results"] if file.exists() else []
    return {
        result["unique_id"]: (result["status"], result["failures"])
        for result in results
        # Hooks run once for each command.
        if not result["unique_id"].startswith("operation.")
    }


def _count(statuses: Mapping[str, tuple[str, int | None]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for status, _ in statuses.values():
        counts[status] = counts.get(status, 0) + 1
    return dict(sorted(counts.items()))


def _shown(result: tuple[str, int | None] | None) -> str:
    if result is None:
        return "has no result"
    status, failures = result
    return status if failures is None else f"{status} ({failures})"


def _compare_tables(proof: Proof, postgres: Postgres, manifest: Manifest) -> None:
    nodes: dict[tuple[str, str], Any] = {
        (node.schema, node.alias): node
        for node in manifest.nodes.values()
        if str(node.resource_type) in BUILT
    }
    found = {side: _read_tables(postgres, database) for side, database in DATABASES.items()}
    for place in sorted(found["dbt"].keys() | found["pipeline"].keys()):
        name = ".".join(place)
        theirs, ours = found["dbt"].get(place), found["pipeline"].get(place)
        if theirs is None or ours is None:
            proof.differences.append(
                f"{name}: only {'the pipeline' if theirs is None else 'dbt'} made it"
            )
            continue
        if theirs == ours:
            proof.tables.append((name, theirs.rows, _hexadecimal(theirs.checksum), ""))
            continue
        node = nodes.get(place)
        if node is None:
            # A hook wrote it, which runs once for each command.
            proof.tables.append((name, theirs.rows, "", "not compared: no node makes it"))
            continue
        excuse = _find_excuse(node, manifest)
        columns = sorted(
            column
            for column in theirs.columns.keys() | ours.columns.keys()
            if theirs.columns.get(column) != ours.columns.get(column)
        )
        excused = _excused_columns(node, manifest)
        if theirs.rows == ours.rows and (excuse or set(columns) <= excused):
            why = excuse or "the time of the run"
            proof.tables.append((name, theirs.rows, "", f"{', '.join(columns)} differ: {why}"))
            continue
        proof.differences.append(
            f"{name}: dbt {theirs.rows} rows, the pipeline {ours.rows}; "
            f"different columns: {', '.join(columns) or 'none, but rows'}"
        )


def _read_tables(postgres: Postgres, database: str) -> dict[tuple[str, str], Table]:
    tables = {}
    with closing(_connect(postgres, database)) as connection, connection.cursor() as cursor:
        cursor.execute(_RELATIONS)
        for schema, name, quoted, columns in cursor.fetchall():
            sums = [
                sql.SQL("coalesce(sum(hashtextextended(t.{}::text, 0)), 0)").format(
                    sql.Identifier(column)
                )
                for column in columns
            ]
            cursor.execute(
                sql.SQL(
                    "select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0), "
                    "array[{}]::numeric[] from {} as t"
                ).format(sql.SQL(", ").join(sums), sql.SQL(quoted))
            )
            rows, checksum, values = cursor.fetchone()
            tables[schema, name] = Table(
                dict(zip(columns, map(int, values), strict=True)), rows, int(checksum)
            )
    return tables


def _hexadecimal(checksum: int) -> str:
    return f"{checksum % 2**64:016x}"


def _find_excuse(node: Any, manifest: Manifest) -> str | None:
    """Return why a node's rows differ between two runs, by its code or that of an ancestor."""
    for unique_id in _upstream(node, manifest):
        code = getattr(manifest.nodes[unique_id], "raw_code", "") or ""
        if (word := find_in_code([code])) is not None:
            return f"{manifest.nodes[unique_id].name} uses {word}"
    return None


def _excused_columns(node: Any, manifest: Manifest) -> set[str]:
    """Return the columns that hold the time of the run, in a snapshot and what reads it."""
    upstream = [manifest.nodes[unique_id] for unique_id in _upstream(node, manifest)]
    found: set[str] = set()
    for each in upstream:
        if str(each.resource_type) == "snapshot":
            names = each.config.get("snapshot_meta_column_names")
            found |= {getattr(names, column, None) or column for column in _SNAPSHOT_COLUMNS}
    return found


def _upstream(node: Any, manifest: Manifest) -> Iterable[str]:
    found = find_ancestors(node.unique_id, manifest.parent_map)
    return sorted(each for each in found if each in manifest.nodes)
