"""The tutorial, told in its order on a copy of the project with servers of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.documentation.test_commands import STORY, shell
from tests.support.command_blocks import Block, blocks
from tests.support.project import PATIENCE, Project, copy_of_the_project, stop_servers

pytestmark = pytest.mark.docs

WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in {"NAME": "a", "EMAIL": "a@example.com"}.items()
}
PLAIN = "uv run millrace run"
DOWN = "uv run millrace down"


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Project]:
    """What the first two commands leave: a clone in which the quickstart was run."""
    project = copy_of_the_project(tmp_path / "millrace")
    project.environment = WHO
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "A"]):
        subprocess.run(
            ["git", *arguments], cwd=project.folder, env=os.environ | WHO, check=True
        )  # fmt: skip
    try:
        done = project.run("-m", "infrastructure.cli", "quickstart")
        assert done.returncode == 0, done.stdout + done.stderr
        yield project
    finally:
        stop_servers(project)


def fresh_clone_works(clone: Project) -> bool:
    """Run the quickstart of the tutorial's commit where its files are not."""
    folder = clone.folder.parent / "second"
    subprocess.run(["git", "clone", "--quiet", str(clone.folder), str(folder)], check=True)
    second = Project(folder)
    try:
        done = second.run("-m", "infrastructure.cli", "quickstart")
        assert done.returncode == 0, done.stdout + done.stderr
        said = done.stdout + done.stderr
        assert "Source acme__orders was never loaded into target dev" in said
        assert "millrace ingest acme__orders --target dev" in said
        return second.query("select count(*) from dev_marts.fct_flights") == [(336_776,)]
    finally:
        stop_servers(second)


@contextmanager
def beside(project: Project, command: str) -> Iterator[None]:
    """A command that goes on until somebody ends it, as Ctrl-C does."""
    words = command.removeprefix("uv run millrace ").split()
    started = subprocess.Popen(
        [sys.executable, "-m", "infrastructure.cli", *words],
        cwd=project.folder, env=project.variables(),
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    try:
        yield
        assert started.poll() is None, f"{command} has ended by itself"
    finally:
        started.send_signal(signal.SIGINT)
        assert started.wait(PATIENCE) is not None


def tell(project: Project, block: Block, until_the_end: ExitStack) -> None:
    """Do what a block says."""
    match block.kind:
        case "file":
            file = project.folder / block.what
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text + "\n")
        case "runs beside the next":
            until_the_end.enter_context(beside(project, block.text))
        case "runs":
            for command in block.commands:
                if command == DOWN:
                    # The worker goes first, as the reader's terminal does.
                    until_the_end.close()
                started = time.monotonic()
                done = shell(project, command)
                assert done.returncode == 0, f"{block}: {command}\n{done.stdout}\n{done.stderr}"
                print(f"{time.monotonic() - started:6.1f} s  {command}")  # noqa: T201


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_tutorial_as_it_stands(clone: Project) -> None:
    with ExitStack() as until_the_end:
        for block in blocks(STORY):
            if block.text == PLAIN:
                deployed = clone.last_run("dev")
            if block.text == DOWN:
                days = clone.query(
                    "select count(*), sum(flights) from dev_marts.agg_daily_punctuality"
                )
                orders = clone.query("select item_id from dev_staging.stg_acme__orders__items")
                plain = clone.last_run("dev")
            tell(clone, block, until_the_end)
    assert fresh_clone_works(clone)
    assert days == [(365, 336_776)]
    assert sorted(orders) == [(1,), (2,)]
    assert deployed["state"]["type"] == plain["state"]["type"] == "COMPLETED"
    assert deployed["deployment_id"] is not None
    assert plain["deployment_id"] is None
    status = clone.run("-m", "infrastructure.cli", "status")
    assert status.returncode == 1, status.stdout
