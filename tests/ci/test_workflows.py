"""What the workflows promise: pinned actions, few rights, and only commands that are here."""

from __future__ import annotations

import functools
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from tests.support.project import REPOSITORY
from tests.support.workflow_files import (
    ACTIONS,
    GITHUB,
    WORKFLOWS,
    Job,
    commands_of_scripts,
    commands_of_workflows,
    jobs,
    read,
    used,
)

pytestmark = pytest.mark.ci

PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)+")
OF_THIS_REPOSITORY = re.compile(r"\$/(\.github/.+)")
# Nobody but these may write anything, and each says why.
WRITING = {
    ("ci.yml", "slim", "pull-requests", "write"),
    ("ci.yml", "slim", "id-token", "write"),
    ("pull-request-closed.yml", "close", "id-token", "write"),
    ("nightly.yml", "sweep", "id-token", "write"),
    ("nightly.yml", "live", "id-token", "write"),
    ("release.yml", "publish", "contents", "write"),
    ("release.yml", "publish", "packages", "write"),
    *(
        (file, "image", scope, "write")
        for file in (
            "build-base-image.yml", "deploy-staging.yml", "deploy-prod.yml", "release.yml"
        )
        for scope in ("packages", "id-token")
    ),
}  # fmt: skip
every_job = pytest.mark.parametrize("job", jobs(), ids=str)


def checked(folder: Path = GITHUB) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REPOSITORY / ".ci" / "workflows", folder],
        env={k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")}
        | {"UV_NO_SYNC": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_are_the_workflows_that_the_documentation_names() -> None:
    assert {file.stem for file in WORKFLOWS} == {
        "build-base-image", "checks", "ci", "deploy-prod", "deploy-staging", "nightly",
        "pull-request-closed", "release",
    }  # fmt: skip
    assert len(ACTIONS) == 1


def test_no_tool_finds_a_fault() -> None:
    done = checked()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "zizmor: no findings at its pedantic level" in done.stdout
    assert "actionlint: no faults" in done.stdout or shutil.which("go") is None


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("ci.yml", "timeout-minutes: 60", "timeout-minuts: 60", "Schema validation errors"),
        ("ci.yml", "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "unpinned-uses"),
        ("ci.yml", "  pull_request:\n", "  pull_request_target:\n", "dangerous-triggers"),
        ("ci.yml", 'check "$NUMBER"', 'check "${{ github.head_ref }}"', "template-injection"),
        ("ci.yml", "        with:\n          persist-credentials: false\n", "", "artipacked"),
        ("deploy-staging.yml", "needs.image.outputs.image }}", "needs.image.outputs.imag }}",
         'property "imag" is not defined'),
        ("checks.yml", "runs-on: ubuntu-24.04", "runs-on: ubuntu-4.20", "ubuntu-4.20"),
    ],
)  # fmt: skip
def test_a_fault_is_found(tmp_path: Path, file: str, before: str, after: str, said: str) -> None:
    if "property" in said or "runs-on" in before:
        needs_go()
    folder = tmp_path / ".github"
    shutil.copytree(GITHUB, folder)
    text = (folder / "workflows" / file).read_text()
    assert before in text
    (folder / "workflows" / file).write_text(text.replace(before, after))
    done = checked(folder)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def needs_go() -> None:
    if shutil.which("go") is None and shutil.which("actionlint") is None:
        pytest.skip("SKIPPED: there is neither Go nor actionlint on this machine")


@pytest.mark.parametrize(("file", "reference"), used())
def test_actions_are_pinned_by_commit(file: str, reference: str) -> None:
    if own := OF_THIS_REPOSITORY.fullmatch(reference):
        target = REPOSITORY / own[1]
        assert target.is_file() or (target / "action.yml").is_file()
    else:
        assert PINNED.fullmatch(reference), f"{file}: commit and version of {reference}"


def test_an_action_has_one_version() -> None:
    versions: dict[str, set[str]] = {}
    for _, reference in used():
        name, _, version = reference.partition("@")
        versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_nothing_is_permitted_to_all_and_no_foreign_code_gets_secrets(file: Path) -> None:
    document = read(file)
    assert document["permissions"] == {}
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(document["on"])
    assert "concurrency" in document or set(document["on"]) == {"workflow_call"}


@every_job
def test_a_job_has_an_end_and_its_rights(job: Job) -> None:
    assert job.calls or 0 < job.document["timeout-minutes"] <= 120
    writes = {
        (job.file, job.name, scope, right)
        for scope, right in job.document["permissions"].items()
        if right != "read"
    }
    assert writes <= WRITING


def test_every_job_that_writes_is_listed() -> None:
    assert {(job.file, job.name) for job in jobs()} >= {entry[:2] for entry in WRITING}


@every_job
def test_secrets_belong_to_an_environment(job: Job) -> None:
    named = set(re.findall(r"secrets\.(\w+)", str(job.document))) - {"GITHUB_TOKEN"}
    assert not named or "environment" in job.document
    assert "inherit" not in str(job.document.get("secrets", ""))


@every_job
def test_secrets_are_variables_of_steps_and_not_of_command_lines(job: Job) -> None:
    for step in job.steps:
        assert "${{" not in step.get("run", "")
        if "run" in step:
            assert "secrets." not in str({k: v for k, v in step.items() if k != "env"})
    assert "secrets." not in str(job.document.get("env", {}))


@pytest.mark.parametrize("name", ["slim", "close"])
def test_credentials_of_the_warehouse_are_not_for_forks(name: str) -> None:
    (job,) = [job for job in jobs() if job.name == name]
    condition = " ".join(job.document["if"].split())
    assert "github.event.pull_request.head.repo.full_name == github.repository &&" in condition


def test_what_is_published_takes_nothing_from_a_cache() -> None:
    publishing = [
        job for job in jobs() if "write" in str(job.document["permissions"].get("packages"))
    ]
    assert len([job for job in publishing if job.steps]) == 2
    for job in publishing:
        assert "cache" not in str(job.steps)


@pytest.mark.parametrize(("where", "words"), list(commands_of_workflows()))
def test_a_workflow_runs_commands_of_this_repository(where: str, words: list[str]) -> None:
    if words[0].startswith(".ci/"):
        file = REPOSITORY / words[0]
        assert os.access(file, os.X_OK), where
        listed = subprocess.run(
            ["git", "ls-files", "--error-unmatch", words[0]],
            cwd=REPOSITORY, capture_output=True, check=False,
        )  # fmt: skip
        assert listed.returncode == 0, f"{words[0]} is not in git"
        usage = file.read_text().split("set -euo pipefail")[0]
        for word in words[1:]:
            if word.startswith("--") or (re.fullmatch("[a-z-]+", word) and word != "millrace"):
                assert word in usage, f"{where}: {words[0]} says nothing of {word}"
    else:
        assert words[:3] == ["uv", "run", "millrace"], f"{where}: {' '.join(words)}"
        takes(words[2:])


@pytest.mark.parametrize(("where", "words"), list(commands_of_scripts()))
def test_a_script_gives_options_that_are_there(where: str, words: list[str]) -> None:
    assert where
    takes(words)


def takes(words: list[str]) -> None:
    """Whether it is a command line of `millrace`, or of the module after `python -m`."""
    is_millrace = words[0] == "millrace"
    command: Any = command_of("infrastructure.cli" if is_millrace else words[2])
    for word in words[1 if is_millrace else 3 :]:
        name, _, _ = word.partition("=")
        if hasattr(command, "commands") and not name.startswith(("-", "$")):
            found = command.get_command(None, name)
            assert found is not None, f"{' '.join(words)}: there is no command {name}"
            command = found
        elif name.startswith("--"):
            there = {option for parameter in command.params for option in parameter.opts}
            assert name in there, f"{' '.join(words)}: there is no option {name}"


@functools.cache
def command_of(module: str) -> Any:
    """The command line of a module, as typer makes it."""
    found = importlib.import_module(module)
    if hasattr(found, "app"):
        return typer.main.get_command(found.app)
    app = typer.Typer()
    main: Callable[..., None] = found.main
    app.command()(main)
    return typer.main.get_command(app)


def test_the_workflows_have_the_tools_of_the_dockerfile() -> None:
    uv = re.search(
        r"^ARG UV_IMAGE=\S+:(\S+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE
    )
    assert uv is not None
    (action,) = ACTIONS
    assert read(action)["runs"]["steps"][0]["with"]["version"] == uv[1]


def test_a_signature_is_that_of_the_workflow_that_signs() -> None:
    signing = [job.file for job in jobs() if ".ci/sign" in str(job.steps)]
    assert signing == ["build-base-image.yml"]
    assert f".github/workflows/{signing[0]}" in (REPOSITORY / ".ci" / "verify").read_text()
