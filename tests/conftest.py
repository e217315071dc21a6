"""Fixtures of all tests: servers, and copies of the project that stand on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.project import (
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


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was left out: nothing is, without a word."""
    if config.option.markexpr == "not long":
        terminalreporter.write_line(
            "LEFT OUT: tests that are marked as long, which the nightly workflow runs. "
            "All of them: uv run --all-packages pytest -n 2 -m ''"
        )


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    """The servers, blocks and tables that the first command makes; stopped at the end."""
    project = copy_of_the_project(tmp_path_factory.mktemp("quickstart") / "millrace")
    try:
        done = project.run("-m", "infrastructure.quickstart")
        assert done.returncode == 0, done.stdout + done.stderr
        yield Quickstart(project, done)
    finally:
        stop_servers(project)


@pytest.fixture(scope="session")
def project(quickstart: Quickstart) -> Project:
    return quickstart.project


@pytest.fixture(scope="module")
def other_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A second project with servers of its own, for tests that change all blocks or stop them."""
    project = copy_of_the_project(tmp_path_factory.mktemp("other") / "millrace")
    try:
        done = project.run("-m", "infrastructure.local", "up")
        assert done.returncode == 0, done.stdout + done.stderr
        yield project
    finally:
        stop_servers(project)


@pytest.fixture(scope="session")
def bigquery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQuery]:
    """BigQuery's stand-in, empty; nothing that used it has reached for the real service."""
    from tests.support.bigquery.emulator import running

    with running(shared_folder(tmp_path_factory, "bigquery")) as bigquery:
        yield bigquery
        assert not bigquery.google.refused, "something reached for a server outside"


@pytest.fixture
def scratch(project: Project, tmp_path: Path) -> Scratch:
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
    done = scratch.setup("--outputs", str(outputs), "--target", "scratch")
    assert done.returncode == 0, done.stdout + done.stderr
    return scratch
