"""The workflows of .github as data: their jobs, steps, actions and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.project import REPOSITORY

GITHUB = REPOSITORY / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
_FUNCTION = re.compile(
    r"^(\w+)\(\) \{ .*?(millrace [a-z ]+?|python -m infrastructure\.[\w. -]+?)"
    r'(?: --quiet)? "\$@"; \}',
    re.MULTILINE,
)
ACTIONS = sorted(GITHUB.glob("actions/*/action.yml"))


@dataclass(frozen=True)
class Job:
    """A job of a workflow."""

    file: str
    name: str
    document: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"

    @property
    def steps(self) -> list[dict[str, Any]]:
        return self.document.get("steps", [])

    @property
    def calls(self) -> bool:
        """Whether it is another workflow."""
        return "uses" in self.document


def read(file: Path) -> dict[str, Any]:
    """A workflow; `on` is no truth value here, whatever YAML 1.1 says."""
    document = yaml.safe_load(file.read_text())
    if True in document:
        document["on"] = document.pop(True)
    return document


def jobs() -> list[Job]:
    return [
        Job(file.name, name, job) for file in WORKFLOWS for name, job in read(file)["jobs"].items()
    ]


def used() -> list[tuple[str, str]]:
    """Every line with `uses:`: file, and what stands behind it with its comment."""
    return [
        (file.name, found[1])
        for file in [*WORKFLOWS, *ACTIONS]
        for found in re.finditer(r"^\s*(?:- )?uses: (.+)$", file.read_text(), re.MULTILINE)
    ]


def commands_of_workflows() -> Iterator[tuple[str, list[str]]]:
    """Every command that a step runs: where, and its words, without what feeds or filters it."""
    for job in jobs():
        for step in job.steps:
            for line in step.get("run", "").splitlines():
                words = shlex.split(re.split(r" \| | <<< ", line)[0])
                yield str(job), words[1:] if words[0] == "xargs" else words


def commands_of_scripts() -> Iterator[tuple[str, list[str]]]:
    """Every `millrace …` and `python -m infrastructure.…` in .ci, with its words."""
    for file in sorted((REPOSITORY / ".ci").iterdir()):
        text = file.read_text().replace("\\\n", " ")
        # Functions that stand for a module, and so for the beginning of its command line.
        shorter = {found[1]: found[2] for found in _FUNCTION.finditer(text)}
        for line in text.splitlines():
            code = line.strip()
            if code.startswith("#") or re.match(r"\w+\(\) \{", code):
                continue
            for name, stands_for in shorter.items():
                code = re.sub(rf"(?:^|(?<=\()|(?<=\) )){name}(?= )", stands_for, code)
            program = r"(?:(?<=uv run )|(?<=--no-sync )|(?<=\" )|\$|(?<=\())millrace (?=[a-z])"
            if found := re.search(rf"({program}|python3? -m infrastructure\.)[^|;&)]*", code):
                given = re.sub(r"(?:2?> ?|<<< ?|< ?)\S*", "", found[0])
                yield f".ci/{file.name}", re.sub("[\"'$]", "", given).split()
