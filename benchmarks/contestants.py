"""Who runs the same dbt project: what each is called with, and what it is given before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import generated_project
import yaml
from ground import KEPT_TARGET, TARGET, THREADS, BenchmarkError, Place
from peers import AIRFLOW, DAGSTER, SQLMESH, Peer

SCRIPTS = Path(__file__).resolve().parent / "contestant_scripts"
PYTHON = sys.executable
PIPELINE = ["prefect_flows/pipeline.py", "--skip", "ingest", "--skip", "docs", "--target"]


def _nothing(_place: Place, _environment: dict[str, str]) -> None:
    """Nothing has to be made before."""


@dataclass(frozen=True)
class Contestant:
    """One way to run a dbt project.

    Attributes:
        name: as `--contestants` takes it.
        what: as the table says it.
        command: what is measured.
        variables: what it finds in its environment, beside what all find.
        directory: the folder it is called in, inside the project's.
        reports: whether it reports to the Prefect API.
        target: the target it builds.
        keeps: whether it goes on from the run before; else its database is made anew each time.
        rebuilds: whether it builds and tests everything again although it keeps its database.
        needs: an option of the pipeline without which it does not take part.
        peer: what has to be installed for it.
        prepare: what a deployment of it does before the first run.
    """

    name: str
    what: str
    command: Callable[[Place], list[str]]
    variables: Callable[[Place], dict[str, str]] = lambda _: {}
    directory: str = ""
    reports: bool = False
    target: str = TARGET
    keeps: bool = False
    rebuilds: bool = False
    needs: str | None = None
    peer: Peer | None = None
    prepare: Callable[[Place, dict[str, str]], None] = field(default=_nothing)

    def cwd(self, place: Place) -> Path:
        """The folder it is called in."""
        return place.folder / self.directory

    def environment(self, place: Place) -> dict[str, str]:
        """The environment it is called with."""
        environment = place.ground.environment(place.folder) | self.variables(place)
        if self.peer is not None:
            # Its own Python and dbt, and nothing of this project.
            path = [str(self.peer.bin(place.ground.work)), os.environ["PATH"]]
            environment["PATH"] = os.pathsep.join(path)
            del environment["PYTHONPATH"], environment["MILLRACE_PROJECT_DIR"]
        return environment


def _dbt_variables(name: str) -> Callable[[Place], dict[str, str]]:
    """Let dbt keep its artifacts, its partial parse among them, in a folder of the contestant's."""

    def variables(place: Place) -> dict[str, str]:
        return {
            "DBT_PROJECT_DIR": str(place.dbt_dir),
            "DBT_PROFILES_DIR": str(place.dbt_dir),
            "DBT_TARGET_PATH": str(place.folder / "targets" / name),
            "DBT_LOG_PATH": str(place.folder / "targets" / name / "logs"),
        }

    return variables


def _dagster_variables(place: Place) -> dict[str, str]:
    home = place.folder / "dagster-home"
    return _dbt_variables("dagster")(place) | {"DAGSTER_HOME": str(home)}


def _prepare_dagster(place: Place, environment: dict[str, str]) -> None:
    home = Path(environment["DAGSTER_HOME"])
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    _run([str(DAGSTER.bin(place.ground.work) / "dbt"), "parse"], place, environment)


def _cosmos_variables(place: Place) -> dict[str, str]:
    home = place.folder / "airflow-home"
    return {
        # No DBT_TARGET_PATH: Cosmos runs dbt in copies of the project and looks for it there.
        "DBT_PROJECT_DIR": str(place.dbt_dir),
        "DBT_PROFILES_DIR": str(place.dbt_dir),
        "BENCH_MANIFEST": str(place.folder / "targets" / "cosmos" / "manifest.json"),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False",
        "SCARF_ANALYTICS": "false",
    }


def _prepare_cosmos(place: Place, environment: dict[str, str]) -> None:
    dags = Path(environment["AIRFLOW__CORE__DAGS_FOLDER"])
    dags.mkdir(parents=True)
    shutil.copy(SCRIPTS / "cosmos_dag.py", dags)
    commands = AIRFLOW.bin(place.ground.work)
    _run([str(commands / "airflow"), "db", "migrate"], place, environment)
    parse = [str(commands / "dbt"), "parse"]
    _run(parse, place, environment | _dbt_variables("cosmos")(place))


def _sqlmesh_plan(place: Place) -> list[str]:
    return [str(SQLMESH.bin(place.ground.work) / "sqlmesh"), "plan", "--auto-apply", "--no-prompts"]


def _prepare_sqlmesh(
    directory: str, target: str, place: Place, environment: dict[str, str]
) -> None:
    """Write a SQLMesh project of native models, or let SQLMesh read a copy of the dbt project."""
    folder = place.folder / directory
    server = place.ground.server
    connection = {key: server[key] for key in ("host", "port", "user")}
    connection |= {"type": "postgres", "password": "none"}  # which SQLMesh asks for
    if "dbt" in directory:
        shutil.copytree(place.dbt_dir, folder, ignore=shutil.ignore_patterns("target", "logs"))
        output = connection | {
            "dbname": place.database(target),
            "schema": generated_project.SCHEMA,
            "threads": THREADS,
        }
        profiles = {"millrace": {"target": "bench", "outputs": {"bench": output}}}
        (folder / "profiles.yml").write_text(yaml.safe_dump(profiles))
        init = [str(SQLMESH.bin(place.ground.work) / "sqlmesh"), "init", "-t", "dbt"]
        _run(init, place, environment, folder)
    else:
        generated_project.write_sqlmesh(folder, place.models)
        connection |= {"database": place.database(target), "concurrent_tasks": THREADS}
        config = {
            "gateways": {"bench": {"connection": connection}},
            "default_gateway": "bench",
            "model_defaults": {
                "dialect": "postgres",
                "start": f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}",
            },
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    place.empty(target)
    if target != TARGET:
        _run(_sqlmesh_plan(place), place, environment, folder)


def _sqlmesh_contestants(models: str, name: str) -> list[Contestant]:
    """SQLMesh's first run, the scheduled run of each day after it, and a run with nothing due."""

    def contestant(
        suffix: str, what: str, command: Callable[[Place], list[str]], *, rebuilds: bool = False
    ) -> Contestant:
        target = f"bench-{name}{suffix}" if suffix else TARGET
        return Contestant(
            name + suffix,
            f"SQLMesh, {models}: {what}",
            command,
            lambda _: {"SQLMESH__DISABLE_ANONYMIZED_ANALYTICS": "true"},
            directory=name + suffix,
            target=target,
            keeps=bool(suffix),
            rebuilds=rebuilds,
            peer=SQLMESH,
            prepare=partial(_prepare_sqlmesh, name + suffix, target),
        )

    def bin_of(place: Place, command: str) -> str:
        return str(SQLMESH.bin(place.ground.work) / command)

    return [
        contestant("", "first `sqlmesh plan`", _sqlmesh_plan),
        contestant(
            "-next-day",
            "`sqlmesh run`, everything due",
            lambda place: [bin_of(place, "python"), str(SCRIPTS / "sqlmesh_next_day.py")],
            rebuilds=True,
        ),
        contestant(
            "-unchanged",
            "`sqlmesh run`, nothing due",
            lambda place: [bin_of(place, "sqlmesh"), "run"],
        ),
    ]


def _run(
    command: list[str], place: Place, environment: dict[str, str], cwd: Path | None = None
) -> None:
    done = subprocess.run(
        command, cwd=cwd or place.dbt_dir, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BenchmarkError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-500:]}")


CONTESTANTS = [
    Contestant(
        "dbt",
        "dbt build",
        lambda _: [PYTHON, "-m", "dbt.cli.main", "build"],
        _dbt_variables("dbt"),
        directory="dbt",
    ),
    Contestant(
        "pipeline",
        "pipeline",
        lambda _: [PYTHON, *PIPELINE, TARGET],
        reports=True,
    ),
    Contestant(
        "pipeline-build",
        "pipeline --strategy build",
        lambda _: [PYTHON, *PIPELINE, TARGET, "--strategy", "build"],
        reports=True,
        needs="--strategy",
    ),
    Contestant(
        "pipeline-changed",
        "pipeline --changed, nothing changed",
        lambda _: [PYTHON, *PIPELINE, KEPT_TARGET, "--changed"],
        reports=True,
        target=KEPT_TARGET,
        keeps=True,
        needs="--changed",
    ),
    Contestant(
        "pipeline-unchanged",
        "pipeline, nothing changed",
        lambda _: [PYTHON, *PIPELINE, KEPT_TARGET],
        reports=True,
        target=KEPT_TARGET,
        keeps=True,
        needs="--no-reuse",
    ),
    Contestant(
        "runner",
        "PrefectDbtRunner in a flow",
        lambda _: [PYTHON, str(SCRIPTS / "prefect_dbt_runner.py")],
        _dbt_variables("runner"),
        reports=True,
    ),
    Contestant(
        "operation",
        "DbtCoreOperation (subprocess) in a Prefect task",
        lambda _: [PYTHON, str(SCRIPTS / "prefect_dbt_operation.py")],
        _dbt_variables("operation"),
        reports=True,
    ),
    Contestant(
        "dagster",
        "dagster-dbt, `dagster asset materialize`",
        lambda place: [
            str(DAGSTER.bin(place.ground.work) / "dagster"), "asset", "materialize",
            "--select", "*", "-f", str(SCRIPTS / "dagster_assets.py"),
        ],
        _dagster_variables,
        peer=DAGSTER,
        prepare=_prepare_dagster,
    ),
    Contestant(
        "cosmos",
        "Cosmos, `airflow dags test` (one task at a time)",
        lambda place: [str(AIRFLOW.bin(place.ground.work) / "airflow"), "dags", "test", "cosmos",
                       "-f", str(place.folder / "airflow-home" / "dags" / "cosmos_dag.py")],
        _cosmos_variables,
        peer=AIRFLOW,
        prepare=_prepare_cosmos,
    ),
    *_sqlmesh_contestants("native models", "sqlmesh"),
    *_sqlmesh_contestants("the dbt project", "sqlmesh-dbt"),
]  # fmt: skip
