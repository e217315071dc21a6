"""Every command block of every page is run, or says what runs it, or what a reader has to have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_blocks import (
    KINDS,
    NEEDS,
    PLACEHOLDER,
    Block,
    blocks,
    functions_of,
    indented_blocks,
    missing_of,
    pages,
    words_in,
    words_of,
)
from tests.support.project import REPOSITORY, Project, copy_of_the_project, stop_servers

pytestmark = pytest.mark.docs

# In a command: the id of a flow run, which the test makes.
RUN = " RUN"
# Pages whose runs take minutes: other tests make each, and .ci/run most lines of the README.
NIGHTLY_PAGES = {
    "README.md", "documentation/runbooks.md", "documentation/deployments.md",
    "documentation/how_to/add_a_model.md", "documentation/how_to/backfill.md",
}  # fmt: skip
# A page that is run as one story, by its own test.
STORY = "documentation/tutorial.md"
ALL = [block for page in pages() for block in blocks(page)]
COMMANDS = [block for block in ALL if block.language == "sh"]
PAGES_THAT_RUN = sorted({b.page for b in COMMANDS if b.kind == "runs" and b.page != STORY})


def shell(project: Project, text: str, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    """Lines as a person's shell runs them in the project's folder; they end with the first fault.

    `uv` is uv itself, told to take the environment of these tests as it is.
    """
    assert shutil.which("uv") is not None, "the README's command installs uv"
    environment = project.variables(
        UV_NO_SYNC="1",
        UV_PROJECT_ENVIRONMENT=sys.prefix,
        PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    )
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=project.folder, env=environment,
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("page", pages())
def test_every_block_says_what_it_is(page: str) -> None:
    assert not indented_blocks(page), f"{page}: code by indentation; put it between ``` and ```"
    for block in blocks(page):
        assert block.language, f"{block}: name the language: sh for commands, text for the rest"
        if block.language != "sh" and block.kind:
            kinds = {"file", "said by"}
            assert block.kind in kinds, f"{block}: only commands are {block.kind!r}"


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_a_block_of_commands_says_how_it_is_covered(block: Block) -> None:
    above = (
        f"{block}: put one of these into the line above: <!-- runs -->, "
        "<!-- tested by: tests/test_file.py::test_name -->, <!-- needs: a cluster -->"
    )
    assert block.kind in KINDS, above
    if block.kind == "needs":
        assert block.what in NEEDS, f"{block}: {block.what!r} is none of {sorted(NEEDS)}"
    elif block.kind == "tested by":
        assert block.what, above
    else:
        placeholder = PLACEHOLDER.search("\n".join(block.commands).replace(RUN, ""))
        assert placeholder is None, f"{block}: {placeholder} cannot be run"
        assert block.kind == "runs" or block.page == STORY, above


@pytest.mark.parametrize("block", [b for b in ALL if b.kind == "said by"], ids=str)
def test_a_message_is_one_that_the_code_says(block: Block) -> None:
    assert missing_of(block) == [], f"{block}: {block.what} does not say these any more"


def missing(block: Block) -> set[str]:
    """Words of a block that none of the files has which are said to test it."""
    there: set[str] = set()
    for place in block.what.split(", "):
        name, _, function = place.partition("::")
        assert name != block.page, f"{block}: a page is no test of itself"
        file = REPOSITORY / name
        assert file.is_file(), f"{block}: there is no {name}"
        if function:
            assert function in functions_of(file), f"{block}: {name} has no {function}"
        there |= words_in(file)
        # It reads its lines from the page itself.
        if any(word.endswith(block.page) for word in words_in(file)):
            return set()
    return set().union(*map(words_of, block.commands)) - there


@pytest.mark.parametrize("block", [b for b in COMMANDS if b.kind == "tested by"], ids=str)
def test_testing_a_block_gives_the_same_command(block: Block) -> None:
    assert missing(block) == set(), f"{block}: {block.what} never says these"


def test_a_test_that_gives_another_command_is_seen() -> None:
    block = Block(
        page="documentation/x.md", line=1, language="sh", kind="tested by",
        what="tests/infrastructure/operate/test_backup.py",
        text="uv run millrace backup create --keep 3 --compressed",
    )  # fmt: skip
    assert missing(block) == {"--compressed"}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Project]:
    """A project after a quickstart of its own: others would find what pages leave behind."""
    project = copy_of_the_project(tmp_path_factory.mktemp("pages") / "millrace", prefect_database)
    try:
        done = project.run("-m", "infrastructure.cli", "quickstart")
        assert done.returncode == 0, done.stdout + done.stderr
        # What versions, releases and images are made of: a commit.
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
        for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "A"]):
            subprocess.run([*git, *arguments], cwd=project.folder, check=True)
        # Pages are read one by one; only one of them makes the pool.
        done = project.run("-m", "infrastructure.cli", "pools", "--pool", "default-pool")
        assert done.returncode == 0, done.stderr
        yield project
    finally:
        stop_servers(project)


def a_run_that_waits(project: Project) -> str:
    """The id of a flow run that nobody takes."""
    flow = project.last_run("dev")["flow_id"]
    document = {"flow_id": flow, "name": "shown", "state": {"type": "SCHEDULED"}}
    return str(project.http.post("/flow_runs/", json=document).json()["id"])


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.nightly) if page in NIGHTLY_PAGES else page
        for page in PAGES_THAT_RUN
    ],
)
def test_the_commands_of_a_page_do_what_it_says(page: str, ground: Project) -> None:
    for block in blocks(page):
        if block.language == "sh" and block.kind == "runs":
            run = f" {a_run_that_waits(ground)}" if RUN in block.text else RUN
            for command in (line.replace(RUN, run) for line in block.commands):
                done = shell(ground, command)
                assert done.returncode == 0, f"{block}: {command}\n{done.stdout}\n{done.stderr}"


def test_a_line_that_is_broken_by_a_fault_is_not_passed_over(tmp_path: Path) -> None:
    project = Project(tmp_path / "millrace")
    project.folder.mkdir()
    done = shell(project, "false | cat; echo reached")
    assert (done.returncode, done.stdout) == (1, "")
    assert shell(project, "uv run python -c 'print(1)'").stdout == "1\n"
