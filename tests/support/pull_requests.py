"""A pull request of a project, built and compared as a workflow does it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.project import Project

COMMAND = ("-m", "infrastructure.cli", "pr")
REPOSITORY = "owner/millrace"
# A folder that tests copy is no git clone.
VERSION = {"MILLRACE_VERSION": "0123456789ab"}


@dataclass
class PullRequest:
    """A clone in which somebody changed something."""

    project: Project
    number: int
    target: str
    production: str
    state_url: str
    repository: str | None = REPOSITORY

    @property
    def dbt(self) -> Path:
        return self.project.folder / "dbt"

    @property
    def folder(self) -> Path:
        return self.project.local / "pull_request" / str(self.number)

    @property
    def variables(self) -> dict[str, str]:
        return {**VERSION, "MILLRACE_STATE_URL": self.state_url}

    def run(self, command: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.project.run(
            *COMMAND, command, "--target", self.target, *more, **self.variables, **environment
        )

    def arguments(self, *more: str) -> tuple[str, ...]:
        return ("--number", str(self.number), "--production", self.production, *more)

    def build(self, *more: str, code: int = 0) -> dict[str, Any]:
        """What a build left behind; it ends with the exit code."""
        told = ("--repository", self.repository) if self.repository else ()
        done = self.run("build", *self.arguments(*told, *more))
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads((self.folder / "build.json").read_text())

    def compare(self, *more: str) -> tuple[str, dict[str, dict[str, Any]]]:
        """The comment, and the differences by the name of the model."""
        output = self.project.folder / "comment.md"
        done = self.run("compare", *self.arguments("--output", str(output), *more))
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads((self.folder / "comparison.json").read_text())["differences"]
        return output.read_text(), {each["unique_id"].split(".", 2)[2]: each for each in found}

    def close(self) -> subprocess.CompletedProcess[str]:
        return self.run("close", "--number", str(self.number))

    def edit(self, path: str, before: str, after: str) -> None:
        """Change a file of the dbt project, in one place that is there."""
        file = self.dbt / path
        text = file.read_text()
        assert before in text, f"{path} does not hold {before!r}"
        file.write_text(text.replace(before, after, 1))


def rows(difference: dict[str, Any]) -> tuple[int, ...]:
    """Rows before and after, added, removed, changed."""
    names = ("rows_before", "rows_after", "added", "removed", "changed")
    return tuple(difference[name] for name in names)


def cells(comment: str, model: str) -> list[str]:
    """The line of a model in the comment's table."""
    escaped = model.replace("_", "\\_")
    (line,) = (each for each in comment.splitlines() if each.startswith(f"| {escaped} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]
