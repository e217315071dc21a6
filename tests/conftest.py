"""Fixtures of all tests: servers, and copies of the project that stand on them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from prefect_flows.core.environment import set_variables
from tests.support import fork_server
from tests.support.project import (
    EXAMPLE,
    SCRATCH_DBT,
    Project,
    Quickstart,
    Scratch,
    copy_of_the_project,
    neighbour,
    shared_folder,
    stop_servers,
)

if TYPE_CHECKING:
    from tests.support.bigquery.emulator import BigQuery


# Tests that need more than Python, pip and git, or many minutes. `uv run pytest` leaves them out
# unless their file is named; `uv run pytest -m NAME` runs a tier, and documentation/testing.md has
# their minutes.
TIERS = {
    "bigquery": "a BigQuery emulator and Google's SQL analyzer",
    "browser": "pages in Chromium",
    "ci": "scripts and workflows of continuous integration; their linters need Go",
    "conformance": "every dbt feature, by dbt's command line and by the pipeline; longer runs",
    "containers": "image, Compose and pods in a real engine; .ci/containers starts one",
    "delivery": "deliveries to a host and to a cluster",
    "docs": "the commands of the documentation, and its site",
    "kills": "runs that are killed or stopped, and waits of minutes",
    "models": "the project's models on the tables of a quickstart, and the quickstart",
    "pull_requests": "pull requests that build the project's models beside production's",
    "sources": "more cases of the sources' loads; sources made from the template",
    "terraform": "the Terraform modules",
    "operations": "deployments, health check, backup and automations, on servers of their own",
    "nightly": "more cases of what the other tiers test; .ci/run leaves them out",
}
# A test that uses one of these fixtures, or has it for a parameter, belongs to the tier.
TIER_OF_FIXTURE = {"bigquery": "bigquery", "browser": "browser"}


# First, since pytest chooses its temporary folder in a hook of the same name.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # A folder of one's own: the usual one is closed to other users by each session that starts, and
    # with it to the user that the embedded Postgres runs as under root.
    if config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="millrace-tests-")
    for tier, what in TIERS.items():
        config.addinivalue_line("markers", f"{tier}: {what}")
    config.addinivalue_line("markers", "example: needs the shipped example")
    # The tests of a few files may need no commands, and then wait for nothing.
    is_worker = hasattr(config, "workerinput")
    if config.args_source is not pytest.Config.ArgsSource.ARGS and not is_worker:
        fork_server.start()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    folder = Path(session.config.option.basetemp)
    is_worker = hasattr(session.config, "workerinput")
    if exitstatus == 0 and folder.name.startswith("millrace-tests-") and not is_worker:
        shutil.rmtree(folder)


def pytest_xdist_auto_num_workers() -> int:
    """One worker per core, four at most: each has servers of its own."""
    return min(os.cpu_count() or 1, 4)


# A wrapper comes first: xdist reads the groups in a hook of the same name.
@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    """Leave out the tiers that were not asked for, and decide which tests share a worker."""
    named = {Path(argument.partition("::")[0]).resolve() for argument in config.args}
    named_tests = tuple(argument for argument in config.args if "::" in argument)
    asked_tiers = config.option.markexpr or ""
    chosen: list[pytest.Function] = []
    left_out: list[pytest.Item] = []
    for item in items:
        assert isinstance(item, pytest.Function)
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        for fixture, tier in TIER_OF_FIXTURE.items():
            if fixture in item.fixturenames or fixture in parameters:
                item.add_marker(tier)
        # One quickstart serves all tests that need it; the tests of a file share servers.
        needs_quickstart = "quickstart" in item.fixturenames
        item.add_marker(
            pytest.mark.xdist_group("quickstart" if needs_quickstart else item.path.stem)
        )
        tiers = {mark.name for mark in item.iter_markers()} & TIERS.keys()
        asked = asked_tiers or item.path in named
        nightly_asked = "nightly" in asked_tiers or item.nodeid.startswith(named_tests)
        needs_example = needs_quickstart or item.get_closest_marker("example") is not None
        if (
            (tiers and not asked)
            or ("nightly" in tiers and not nightly_asked)
            or (needs_example and not EXAMPLE.exists())
        ):
            left_out.append(item)
        else:
            chosen.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    # What takes longest begins first, so that no worker ends long after the others.
    items[:] = sorted(
        chosen,
        key=lambda item: (
            "quickstart" not in item.fixturenames,
            item.get_closest_marker("conformance") is None,
            item.get_closest_marker("kills") is None,
        ),
    )
    yield
    # A pytest that pytest-xdist does not know runs without groups, and starts every server twice.
    if getattr(config.option, "loadgroup", False):
        assert all("@" in item.nodeid for item in items), "pytest-xdist did not group the tests"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was left out, and which command runs it."""
    named = [argument for argument in config.args if Path(argument.partition("::")[0]).is_file()]
    if config.option.markexpr or named:
        return
    terminalreporter.section("left out")
    for tier, what in TIERS.items():
        terminalreporter.write_line(f"uv run pytest -m {tier:<13} {what}")


@pytest.fixture(scope="session", autouse=True)
def no_telemetry() -> Iterator[None]:
    """Nothing of dlt leaves the process of a test; commands do without this variable."""
    with set_variables({"RUNTIME__DLTHUB_TELEMETRY": "false"}):
        yield


@pytest.fixture(scope="session", autouse=True)
def prefect_logging() -> None:
    """Prefect has set up logging: in the middle of a test, it would remove pytest's handler."""
    import prefect.main  # noqa: F401


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of a Prefect server with all its migrations; servers start from copies."""
    folder = shared_folder(tmp_path_factory, "prefect_database")
    with FileLock(folder / "lock"):
        database = folder / "prefect.db"
        if not database.exists():
            draft = Project(folder / "draft", environment={"PREFECT_HOME": str(folder / "draft")})
            draft.folder.mkdir()
            done = draft.run("-m", "prefect", "server", "database", "upgrade", "-y")
            assert done.returncode == 0, done.stdout + done.stderr
            (draft.folder / "prefect.db").rename(database)
    return database


@contextmanager
def servers_up(project: Project) -> Iterator[Project]:
    """The embedded Postgres and a Prefect server of a copy of the project, while it lasts."""
    try:
        done = project.run("-m", "infrastructure.cli", "up")
        assert done.returncode == 0, done.stdout + done.stderr
        yield project
    finally:
        stop_servers(project)


@dataclass
class Servers:
    """A project with its servers, and whether the blocks of `dev` are all that is in Prefect."""

    project: Project
    is_set_up: bool = False

    def empty(self) -> None:
        """Leave nothing in the Prefect server but what it makes itself."""
        for path in ("automations", "deployments", "flows", "work_pools", "variables"):
            for found in self.project.asked(path):
                name = found["name" if path == "work_pools" else "id"]
                self.project.delete(f"{path}/{name}")
        releases = {"key": {"like_": "releases-"}}
        for artifact in self.project.asked("artifacts", artifacts=releases):
            self.project.delete(f"artifacts/{artifact['id']}")
        for document in self.project.asked("block_documents"):
            self.project.delete(f"block_documents/{document['id']}")
        for limit in self.project.asked("v2/concurrency_limits"):
            self.project.delete(f"v2/concurrency_limits/{limit['id']}")
        (self.project.folder / "dbt" / "profiles.yml").unlink(missing_ok=True)
        self.is_set_up = False


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Servers]:
    """The servers of a worker, which its files use one after the other."""
    project = copy_of_the_project(tmp_path_factory.mktemp("project") / "millrace", prefect_database)
    with servers_up(project):
        yield Servers(project)


@pytest.fixture(scope="module")
def project(servers: Servers) -> Project:
    """The project with its servers and the blocks of `dev`; its warehouse is empty."""
    if not servers.is_set_up:
        servers.empty()
        done = servers.project.setup()
        assert done.returncode == 0, done.stdout + done.stderr
        servers.is_set_up = True
    return servers.project


@pytest.fixture(scope="module")
def other_project(servers: Servers) -> Project:
    """The same with an empty Prefect server, for tests that change all blocks."""
    servers.empty()
    return servers.project


@pytest.fixture(scope="module")
def own_project(
    tmp_path_factory: pytest.TempPathFactory, prefect_database: Path
) -> Iterator[Project]:
    """A project with servers of its own, for tests that stop or replace them."""
    project = copy_of_the_project(tmp_path_factory.mktemp("own") / "millrace", prefect_database)
    with servers_up(project):
        yield project


@pytest.fixture(scope="session")
def quickstart(
    tmp_path_factory: pytest.TempPathFactory, prefect_database: Path
) -> Iterator[Quickstart]:
    """The servers, blocks and tables that the first command makes; stopped at the end."""
    project = copy_of_the_project(
        tmp_path_factory.mktemp("quickstart") / "millrace", prefect_database
    )
    try:
        done = project.run("-m", "infrastructure.cli", "quickstart")
        assert done.returncode == 0, done.stdout + done.stderr
        yield Quickstart(project, done)
    finally:
        stop_servers(project)


@pytest.fixture(scope="session")
def bigquery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQuery]:
    """BigQuery's stand-in, empty; nothing that used it has reached for the real service."""
    from tests.support.bigquery.emulator import running

    with running(shared_folder(tmp_path_factory, "bigquery")) as bigquery:
        yield bigquery
        assert not bigquery.google.refused, "something reached for a server outside"


@dataclass
class ScratchSetup:
    """What setup made of the target `scratch`: everything in Prefect's settings, and its file."""

    prefect_settings: list[Any]
    profiles: str


@pytest.fixture(scope="session")
def scratch_setups() -> dict[Path, ScratchSetup]:
    """The last setup of `scratch` on the servers of a project, by its folder."""
    return {}


@pytest.fixture
def scratch(project: Project, tmp_path: Path, scratch_setups: dict[Path, ScratchSetup]) -> Scratch:
    """A fresh copy of the small dbt project on an empty schema; its blocks are as at first."""
    folder = neighbour(project, tmp_path / "millrace", SCRATCH_DBT).folder
    (folder / ".local").mkdir()
    shutil.copy(project.local / "terraform-outputs.json", folder / ".local")
    scratch = Scratch(folder, target="scratch", database="scratch")
    outputs = folder / "outputs.json"
    target = project.dev | {"database": "scratch", "schema": "scratch", "threads": 2}
    outputs.write_text(json.dumps({"dbt_targets": {"value": {"scratch": target}}}))
    project.query("drop database if exists scratch with (force)")
    project.query("create database scratch")
    profiles = folder / "dbt" / "profiles.yml"
    before = scratch_setups.get(project.folder)
    if before is not None and before.prefect_settings == project.prefect_settings():
        profiles.write_text(before.profiles)
        return scratch
    done = scratch.setup("--outputs", str(outputs), "--target", "scratch")
    assert done.returncode == 0, done.stdout + done.stderr
    scratch_setups[project.folder] = ScratchSetup(project.prefect_settings(), profiles.read_text())
    return scratch
