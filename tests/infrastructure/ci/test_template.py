"""The template: a source of each kind that is checked, synced, run, deployed, and tests itself."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from tests.support import fork_server
from tests.support.deploying import deploy, deployments, prepared_for_deployments
from tests.support.project import REPOSITORY, Project, copy_of_the_project, serving, stop_servers

# The sources' own tests are run on two warehouses, one of which is installed for them.
pytestmark = [pytest.mark.sources, pytest.mark.timeout(1800)]

TEMPLATE = "infrastructure/config/source_template"
SOURCES = "prefect_flows/sources"
API, DATABASE, FILES = "acme__orders", "acme__ledger", "big_corp__price_list_2"
KINDS = {API: "REST API", DATABASE: "database", FILES: "files"}
# As long as a name may be.
LONG = ("a" * 20, "b" * 18)
MEMBER = 'dependencies = [\n    "millrace",\n'
# Of the tests' own environment, so the index has it; nothing of the project's runtime brings it.
OWN_DEPENDENCY = "iniconfig"
ITEMS = [{"id": 1, "name": "first", "updated_at": "2026-01-01T10:00:00Z"}]


def generate(folder: Path, owner: str, name: str, kind: str) -> subprocess.CompletedProcess[str]:
    """`uvx cookiecutter infrastructure/config/source_template --output-dir …`."""
    return fork_server.run(
        ["-m", "cookiecutter", TEMPLATE, "--output-dir", SOURCES, "--no-input",
         f"owner={owner}", f"name={name}", f"kind={kind}"],
        cwd=folder, env=os.environ | {"HOME": str(folder.parent)},
    )  # fmt: skip


def passes(folder: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tool(folder: Path, *arguments: str) -> str:
    """A tool of the project's own environment."""
    return passes(folder, sys.executable, "-m", *arguments, MILLRACE_PROJECT_DIR=str(folder))


def looks_right(folder: Path, *sources: str) -> None:
    flows = [f"{SOURCES}/{source}" for source in sources]
    tests = [f"tests/prefect_flows/sources/test_{source}.py" for source in sources]
    models = [f"dbt/models/staging/{source}" for source in sources]
    tool(folder, "ruff", "check", "--quiet", *flows, *tests)
    tool(folder, "ruff", "format", "--quiet", "--check", *flows, *tests)
    tool(folder, "yamllint", "--strict", "--config-file", ".yamllint.yaml", *flows, *models)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """What of the project a source is made in and checked by."""
    folder = tmp_path / "millrace"
    shutil.copytree(REPOSITORY / TEMPLATE, folder / TEMPLATE)
    for file in (
        "pyproject.toml", "prefect.yaml", ".yamllint.yaml", ".yamllintignore", ".gitignore",
        "dbt/dbt_project.yml",
    ):  # fmt: skip
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / file, folder / file)
    # By which imports are sorted.
    ignored = shutil.ignore_patterns("sources", "__pycache__")
    shutil.copytree(REPOSITORY / "prefect_flows", folder / "prefect_flows", ignore=ignored)
    shutil.copytree(
        REPOSITORY / "tests" / "support",
        folder / "tests" / "support",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (folder / SOURCES).mkdir()
    return folder


@pytest.mark.parametrize("kind", KINDS.values())
def test_the_longest_name_fits_everywhere(bare: Path, kind: str) -> None:
    owner, name = LONG
    done = generate(bare, owner, name, kind)
    assert done.returncode == 0, done.stderr
    looks_right(bare, f"{owner}__{name}")
    said = passes(
        REPOSITORY, sys.executable, "-m", "infrastructure.cli", "check", "sources",
        "--source", f"{owner}__{name}", MILLRACE_PROJECT_DIR=str(bare),
    )  # fmt: skip
    assert said == f"{owner}__{name}: in order: 3 deployments, 1 table, 1 staging model\n"


@pytest.mark.parametrize(
    ("owner", "name", "said"),
    [
        ("Acme", "orders", "The owner 'Acme' cannot be part of a source's name. Use lowercase"),
        ("2nd", "orders", "The owner '2nd' cannot be part of a source's name."),
        ("acme", "my-orders", "The name 'my-orders' cannot be part of a source's name."),
        ("acme", "my__orders", "The name 'my__orders' cannot be part of a source's name."),
        ("acme", "o" * 35, f"The name acme__{'o' * 35} has 41 characters; use 40 at most."),
    ],
)
def test_a_name_that_no_source_may_have(bare: Path, owner: str, name: str, said: str) -> None:
    done = generate(bare, owner, name, "files")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert list((bare / SOURCES).iterdir()) == []
    assert not (bare / "dbt" / "models").exists()


def test_what_is_there_is_not_written_over(bare: Path) -> None:
    taken = bare / "dbt" / "models" / "staging" / "acme__orders"
    taken.mkdir(parents=True)
    done = generate(bare, "acme", "orders", "files")
    assert done.returncode != 0
    assert f"{taken} is there already. Remove it, or choose another name." in done.stderr
    assert list(taken.iterdir()) == []


def test_elsewhere_it_says_where(bare: Path) -> None:
    (bare / "dbt" / "dbt_project.yml").unlink()
    done = generate(bare, "acme", "orders", "files")
    assert done.returncode != 0
    assert f"{bare} is not a Millrace project. In the project's folder: uvx cookie" in done.stderr


@pytest.fixture(scope="module")
def generated(
    tmp_path_factory: pytest.TempPathFactory, prefect_database: Path
) -> Iterator[Project]:
    """A copy of the project with a source of each kind, and servers of its own."""
    project = copy_of_the_project(
        tmp_path_factory.mktemp("template") / "millrace", prefect_database
    )
    for source, kind in KINDS.items():
        done = generate(project.folder, *source.split("__"), kind)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"Made: {SOURCES}/{source}" in done.stdout
        assert f"uv run millrace check sources --source {source}" in done.stdout
    package = project.folder / SOURCES / DATABASE / "pyproject.toml"
    text = package.read_text()
    assert MEMBER in text
    package.write_text(text.replace(MEMBER, f'{MEMBER}    "{OWN_DEPENDENCY}>=2",\n'))
    try:
        done = project.run("-m", "infrastructure.cli", "up")
        assert done.returncode == 0, done.stdout + done.stderr
        done = project.setup()
        assert done.returncode == 0, done.stdout + done.stderr
        yield project
    finally:
        stop_servers(project)


@pytest.fixture(scope="module")
def python(generated: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`uv sync --all-packages`, without the tools of developers, in an environment of its own."""
    uv = shutil.which("uv")
    assert uv is not None, "the README's command installs uv"
    environment = tmp_path_factory.mktemp("environment") / "venv"
    passes(
        generated.folder, uv, "sync", "--quiet", "--all-packages", "--no-default-groups",
        UV_PROJECT_ENVIRONMENT=str(environment),
    )  # fmt: skip
    return str(environment / "bin" / "python")


def test_the_checks_pass(generated: Project) -> None:
    named = [part for source in KINDS for part in ("--source", source)]
    done = generated.run("-m", "infrastructure.cli", "check", "sources", *named)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines() == [
        f"{source}: in order: 3 deployments, 1 table, 1 staging model" for source in KINDS
    ]


@pytest.mark.nightly
def test_it_is_as_tidy_as_the_rest(generated: Project) -> None:
    looks_right(generated.folder, *KINDS)
    tool(generated.folder, "sqlfluff", "lint", *(f"dbt/models/staging/{each}" for each in KINDS))
    tool(
        generated.folder, "mypy", "--cache-dir", str(REPOSITORY / ".mypy_cache"),
        *(part for each in KINDS for part in ("-p", f"prefect_flows.sources.{each}")),
    )  # fmt: skip


@pytest.mark.nightly
def test_the_workspace_installs_what_a_source_declares(generated: Project, python: str) -> None:
    assert passes(generated.folder, python, "-c", f"import {OWN_DEPENDENCY}") == ""
    for source in KINDS:
        command = [python, "-m", f"prefect_flows.sources.{source}.flow", "--help"]
        assert "--full-refresh" in passes(generated.folder, *command, TERM="dumb")
    # Tools of developers have it, so it has a pin; images do not.
    assert passes(generated.folder, ".ci/pins", "--keep") == "No version changed.\n"
    assert f"\n{OWN_DEPENDENCY}==" in (generated.folder / "requirements.lock").read_text()
    assert f"\n{OWN_DEPENDENCY}==" not in (REPOSITORY / "requirements.lock").read_text()


def run_flow(
    generated: Project, python: str, source: str, *arguments: str, **environment: str
) -> str:
    """A source as a flow of its own, in the environment that was synced."""
    done = subprocess.run(
        [python, "-m", f"prefect_flows.sources.{source}.flow", "--target", "dev", *arguments],
        cwd=generated.folder, env=generated.variables(**environment),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def rows(generated: Project, source: str) -> list[tuple[Any, ...]]:
    return generated.query(f"select id, name from raw_{source}.items")


@pytest.mark.nightly
def test_the_flow_of_an_api(generated: Project, python: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            found = ITEMS if "page=1&" in f"{self.path}&" else []
            self.wfile.write(json.dumps({"items": found}).encode())

    with serving(Handler) as url:
        run_flow(generated, python, API, SOURCES__ACME__ORDERS__API_URL=url)
    assert rows(generated, API) == [(1, "first")]


@pytest.mark.nightly
def test_the_flow_of_a_database(generated: Project, python: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'source.db'}"
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        for sql in (
            "create table items (id integer primary key, name text, updated_at timestamp)",
            "insert into items values (1, 'first', '2026-01-01 10:00:00.000000')",
        ):
            connection.execute(sqlalchemy.text(sql))
    done = generated.run("-m", "infrastructure.cli", "secret", "acme-ledger-url-dev", text=url)
    assert done.returncode == 0, done.stderr
    assert url not in run_flow(generated, python, DATABASE)
    assert rows(generated, DATABASE) == [(1, "first")]


def test_the_flow_of_files(generated: Project, python: str, tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,name,updated_at\n1,first,2026-01-01T10:00:00Z\n")
    run_flow(generated, python, FILES, "--folder", str(tmp_path))
    assert rows(generated, FILES) == [(1, "first")]


@pytest.mark.nightly
def test_they_are_deployed_with_the_others(generated: Project, tmp_path: Path) -> None:
    with prepared_for_deployments(generated, tmp_path):
        done = deploy(generated)
        assert done.returncode == 0, done.stdout + done.stderr
        found = deployments(generated)
    for source in KINDS:
        name = source.replace("__", "--").replace("_", "-")
        for target in ("dev", "staging", "prod"):
            deployment = found[f"{name}--{target}"]
            assert deployment["parameters"]["target"] == target
            assert deployment["entrypoint"].startswith(f"prefect_flows.sources.{source}.flow.")
            pool = "default-pool" if target == "dev" else "docker-pool"
            assert deployment["work_pool_name"] == pool


@pytest.mark.nightly
@pytest.mark.parametrize(("source", "tests"), [(API, 10), (DATABASE, 12), (FILES, 14)])
def test_their_own_tests_pass_on_both_warehouses(
    generated: Project, tmp_path_factory: pytest.TempPathFactory, source: str, tests: int
) -> None:
    base = tmp_path_factory.mktemp("own")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider",
         f"--basetemp={base / 'tests'}", f"tests/prefect_flows/sources/test_{source}.py"],
        cwd=generated.folder, env=os.environ | {"PYTHONPATH": str(generated.folder)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-10_000:]
    assert f"{tests} passed" in done.stdout
