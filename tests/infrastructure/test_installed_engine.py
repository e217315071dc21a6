"""The engine as a wheel, in the repository of a team that has no copy of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pytest

from tests.support.project import PATIENCE, REPOSITORY, SCRATCH_DBT, until

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PREFECT_YAML = """\
pull: []
deployments:
  - name: dbt-dev
    entrypoint: prefect_flows.pipeline.dbt_full_pipeline
    parameters: {target: dev}
    concurrency_limit: {limit: 1, collision_strategy: ENQUEUE}
    work_pool: {name: default-pool}
"""
POOLS = """\
version: 1
pools:
  default-pool:
    kind: process
    description: The machine of the team.
    queues: {dev: {priority: 1}}
"""
SOURCE = "acme__parcels"


def succeeds(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False,
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    succeeds("uv", "build", "--wheel", "--out-dir", folder, REPOSITORY, cwd=folder)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def engine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and what its own metadata asks for.

    uv takes the tested versions, so that it finds them in its cache.
    """
    folder = tmp_path_factory.mktemp("engine")
    uv = PYPROJECT["tool"]["uv"]
    constraints, excludes = folder / "constraints.txt", folder / "excludes.txt"
    constraints.write_text("\n".join(uv["constraint-dependencies"]))
    excludes.write_text("\n".join(uv["exclude-dependencies"]))
    environment = folder / "venv"
    succeeds("uv", "venv", "--python", sys.executable, environment, cwd=folder)
    succeeds(
        "uv", "pip", "install", "--python", environment, "--constraint", constraints,
        "--excludes", excludes, f"millrace[local] @ {wheel.as_uri()}", cwd=folder,
    )  # fmt: skip
    return environment


@dataclass
class Team:
    """The repository of a team, and the commands of the installed engine in it."""

    folder: Path
    engine: Path
    dbt: Path

    def run(
        self, *command: str, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd or self.folder, env=self.variables(**environment),
            capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip

    def variables(self, **environment: str) -> dict[str, str]:
        """Nothing of this shell; the engine is the first on the PATH."""
        home = self.folder.parent / "home"
        home.mkdir(exist_ok=True)
        path = f"{self.engine / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {
            "PATH": path,
            "HOME": str(home),
            "COLUMNS": "200",
            "DO_NOT_TRACK": "1",
        } | environment

    def millrace(self, *arguments: str, **environment: str) -> str:
        done = self.run("millrace", *arguments, **environment)
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def refused(self, *arguments: str, cwd: Path | None = None) -> str:
        done = self.run("millrace", *arguments, cwd=cwd)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def prefect(self, *arguments: str) -> str:
        done = self.run("prefect", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def worker(self) -> Iterator[Path]:
        """A worker of the team's pool; its log."""
        log = self.folder / ".local" / "worker.log"
        with log.open("w") as output:
            worker = subprocess.Popen(
                ["millrace", "worker", "--pool", "default-pool"], cwd=self.folder,
                env=self.variables(), stdout=output, stderr=output,
            )  # fmt: skip
            try:
                yield log
            finally:
                worker.send_signal(signal.SIGTERM)
                worker.wait(timeout=PATIENCE)


def make_team(folder: Path, engine: Path, dbt_dir: str, prefect_database: Path) -> Team:
    """A repository with models and one source, which the engine's own template makes."""
    dbt = folder / dbt_dir
    shutil.copytree(SCRATCH_DBT, dbt)
    (folder / "millrace.toml").write_text("" if dbt_dir == "dbt" else f'dbt_dir = "{dbt_dir}"\n')
    (folder / "prefect.yaml").write_text(PREFECT_YAML)
    (folder / ".gitignore").write_text(".env\n.local/\nprefect.toml\nprofiles.yml\n")
    # It shows in what a run says.
    (folder / ".env").write_text("MILLRACE_VERBOSE=true\n")
    (template,) = engine.glob("lib/*/site-packages/infrastructure/config/source_template")
    succeeds(
        sys.executable, "-m", "cookiecutter", template, "--output-dir", "sources", "--no-input",
        "owner=acme", "name=parcels", "kind=files", cwd=folder,
    )  # fmt: skip
    inbox = folder / ".local" / "inbox" / SOURCE
    inbox.mkdir(parents=True)
    (inbox / "1.csv").write_text("id,name,updated_at\n1,first,2026-01-01T10:00:00Z\n")
    # With a migrated database, the server starts in half the time.
    (folder / ".local" / "prefect").mkdir()
    shutil.copy(prefect_database, folder / ".local" / "prefect")
    for command in (
        ("init", "--quiet"),
        ("add", "."),
        ("-c", "user.name=me", "-c", "user.email=me@example.com", "commit", "--quiet", "-m", "1"),
    ):
        succeeds("git", *command, cwd=folder)
    return Team(folder, engine, dbt)


@pytest.fixture(scope="module")
def team(
    engine: Path, tmp_path_factory: pytest.TempPathFactory, prefect_database: Path
) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team") / "analytics"
    team = make_team(folder, engine, "dbt", prefect_database)
    try:
        team.millrace("up")
        team.millrace("setup")
        yield team
    finally:
        team.millrace("down")


@pytest.mark.sources
def test_the_wheel_has_the_engine_and_nothing_of_the_example(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        described = Parser().parsestr(archive.read(metadata).decode())
        (entries,) = (name for name in names if name.endswith("entry_points.txt"))
        commands = archive.read(entries).decode()
    tracked = succeeds("git", "ls-files", "prefect_flows", "infrastructure", cwd=REPOSITORY)
    others = ("prefect_flows/sources/", "infrastructure/config/example.yaml")
    missing = {name for name in tracked.splitlines() if not name.startswith(others)} - names
    # Files that git knows and this folder does not have any more.
    assert {name for name in missing if (REPOSITORY / name).exists()} == set()
    assert [name for name in names if name.startswith(others)] == [
        "prefect_flows/sources/__init__.py"
    ]
    assert {"prefect_flows/py.typed", "infrastructure/py.typed"} <= names
    assert "millrace = infrastructure.cli:main" in commands
    # What a bound is for must be in the metadata: pip does not read `tool.uv`.
    required = [line for line in described.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert len(required) == len(PYPROJECT["project"]["dependencies"])
    own_bounds = (REPOSITORY / "pyproject.toml").read_text()
    own_bounds = own_bounds.partition("constraint-dependencies = [")[2].partition("# BEGIN pins")[0]
    assert re.findall(r'^\s*"', own_bounds, re.MULTILINE) == []


@pytest.mark.nightly
def test_a_team_builds_its_models_and_runs_its_deployments(team: Team) -> None:
    said = team.millrace("run")
    assert "dbt-run: 3 success" in said
    assert "1 of 3" in said, "the .env of the repository asks for a line for each node"
    assert "in order" in team.millrace("check", "sources")
    checked = team.millrace("check", "models", "--warehouse", "postgres")
    assert "No errors; checked: 7 nodes for postgres." in checked

    (team.folder / "config").mkdir()
    (team.folder / "config" / "pools.yaml").write_text(POOLS)
    said = team.millrace("pools")
    assert "docker-pool" not in said
    deployed = team.millrace("deploy", "dev")
    assert set(re.findall(r"[\w-]+/[\w-]+", deployed)) == {
        "dbt-full-pipeline/dbt-dev", "ingest-acme-parcels/acme--parcels--dev"
    }  # fmt: skip

    (team.folder / ".local" / "inbox" / SOURCE / "2.csv").write_text(
        "id,name,updated_at\n2,second,2026-01-02T10:00:00Z\n"
    )
    with team.worker() as log:
        until(lambda: "started!" in log.read_text())
        team.prefect("deployment", "run", "ingest-acme-parcels/acme--parcels--dev", "--watch")
        team.prefect("deployment", "run", "dbt-full-pipeline/dbt-dev", "--watch")
    assert "raw_acme__parcels.items: 1 new rows" in log.read_text()
    assert "Target dev is done" in log.read_text()
    assert not (team.engine / ".local").exists()


@pytest.mark.nightly
def test_a_command_works_in_a_folder_of_the_project(team: Team) -> None:
    done = team.run("millrace", "run", "--no-prefect", "--skip", "ingest", cwd=team.dbt / "models")
    assert done.returncode == 0, done.stderr
    done = team.run("dbt", "ls", "--quiet", "--select", "doubled", "--target", "dev", cwd=team.dbt)
    assert done.stdout == "scratch.doubled\n", done.stdout + done.stderr


@pytest.mark.nightly
def test_what_cannot_work_says_so_and_what_to_do(team: Team, tmp_path: Path) -> None:
    for command in (("image",), ("adopt", "."), ("update",), ("reference",)):
        assert "works in a clone of Millrace only" in team.refused(*command)
    assert "There is no pyproject.toml" in team.refused("release", "notes", "1.0.0")
    for command in (("up",), ("setup",), ("run",), ("ingest", "--help"), ("check", "models")):
        said = team.refused(*command, cwd=tmp_path)
        assert said.splitlines() == [
            "ConfigurationError: This is not the folder of a project: neither it nor a folder "
            "above has a millrace.toml.",
            f"  where: {tmp_path}",
            "  fix:   cd to the project; or name it: export MILLRACE_PROJECT_DIR=FOLDER; or begin "
            "one here: touch millrace.toml (documentation/how_to/install_the_engine.md)",
        ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
def test_a_dbt_project_at_the_root_of_the_repository(
    engine: Path, tmp_path: Path, prefect_database: Path
) -> None:
    team = make_team(tmp_path / "analytics", engine, ".", prefect_database)
    try:
        assert "dbt-run: 3 success" in team.millrace("quickstart")
        assert (team.folder / "profiles.yml").is_file()
        (team.folder / "models" / "broken.sql").write_text("select * from nowhere")
        done = team.run("millrace", "run", "--select", "broken")
        assert done.returncode == 1
        assert "where: models/broken.sql; compiled in" in done.stderr
        assert "to reproduce: uv run dbt run --target dev --select" in done.stderr
        done = team.run("millrace", "check", "models", "--warehouse", "postgres")
        assert "models/broken.sql:1:15: error: relation" in done.stdout
    finally:
        team.millrace("down")
