"""Versions: from what is written in the changelog to a tag that agrees with it, in real git."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from infrastructure.delivery.release import changelog
from infrastructure.delivery.release.version import Part, Version, parse, set_version
from prefect_flows.core.errors import ConfigurationError
from tests.support import fork_server
from tests.support.project import REPOSITORY

CHANGELOG = """\
# Changelog

Words about the format, with a [link](https://example.com).

## [Unreleased]

### Added

- `one`: of the new things,
  in two lines.

### Fixed

- Another.

## [0.1.0] - 2026-01-31

- The first.
"""
PYPROJECT = """\
[project]
name = "millrace"
version = "0.1.0"  # moved
dependencies = ["dlt>=1.31"]

[tool.other]
"""


class Clone:
    """A clone on main, and the command in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "A person")
        self.git("config", "user.email", "person@example.com")
        self.commit({
            "CHANGELOG.md": CHANGELOG,
            "pyproject.toml": PYPROJECT.replace("  # moved", ""),
        })  # fmt: skip

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    def commit(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "Work")

    def release(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return fork_server.run(
            ["-m", "infrastructure.cli", "release", *arguments],
            cwd=self.folder,
            env=os.environ | {
                "MILLRACE_PROJECT_DIR": str(self.folder), "PYTHONPATH": str(REPOSITORY),
                "COLUMNS": "200",
            },
        )  # fmt: skip

    def done(self, *arguments: str) -> str:
        done = self.release(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, *arguments: str) -> str:
        before = self.state()
        done = self.release(*arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "where:" in done.stderr
        assert "fix:" in done.stderr
        assert self.state() == before
        return done.stderr

    def state(self) -> tuple[str, ...]:
        files = (self.folder / name for name in ("CHANGELOG.md", "pyproject.toml"))
        asked = (("log", "--format=%H"), ("tag", "--list"), ("status", "--porcelain"))
        return *(self.git(*each) for each in asked), *(file.read_text() for file in files)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "clone")


def test_a_release_from_the_changelog_to_the_tag(clone: Clone) -> None:
    clone.done("bump", "minor")
    assert clone.git("tag", "--list") == ""
    clone.done("tag")

    today = datetime.now(UTC).date().isoformat()
    text = (clone.folder / "CHANGELOG.md").read_text()
    assert text == CHANGELOG.replace(
        "## [Unreleased]\n\n", f"## [Unreleased]\n\n## [0.2.0] - {today}\n\n"
    )
    pyproject = (clone.folder / "pyproject.toml").read_text()
    assert tomllib.loads(pyproject)["project"]["version"] == "0.2.0"
    assert 'dependencies = ["dlt>=1.31"]' in pyproject
    assert clone.git("log", "-1", "--format=%s") == "Release 0.2.0"
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("cat-file", "-t", "v0.2.0") == "tag"
    said = clone.git("tag", "--list", "--format=%(contents)", "v0.2.0")
    assert said.startswith("Release 0.2.0\n\n### Added\n\n- `one`")

    assert clone.done("check", "v0.2.0") == "v0.2.0: number, changelog and commit agree\n"
    section = (
        "### Added\n\n- `one`: of the new things,\n  in two lines.\n\n### Fixed\n\n- Another.\n"
    )
    assert clone.done("notes", "0.2.0") == clone.done("notes", "v0.2.0") == section
    assert clone.done("notes", "0.1.0") == "- The first.\n"


def test_by_way_of_a_pull_request(clone: Clone) -> None:
    """Where main is protected: bumped on a branch, tagged where it was merged."""
    clone.git("switch", "--quiet", "--create", "release")
    clone.done("bump", "patch")
    assert "Releases are tagged on main, and this is release." in clone.refused("tag")
    clone.git("switch", "--quiet", "main")
    clone.git("merge", "--quiet", "--squash", "release")
    clone.git("commit", "--quiet", "--message", "Release 0.1.1 (#7)")
    clone.done("tag")
    clone.done("check", "v0.1.1")
    assert clone.git("rev-parse", "v0.1.1^{commit}") == clone.git("rev-parse", "main")


def test_a_dry_run_changes_nothing(clone: Clone) -> None:
    before = clone.state()
    said = clone.done("bump", "major", "--dry-run")
    assert said.startswith("1.0.0, ")
    assert "- Another." in said
    assert clone.state() == before


def test_what_is_not_fit_to_be_released(clone: Clone) -> None:
    clone.git("tag", "v0.2.0")
    assert "The tag v0.2.0 is there already." in clone.refused("bump", "minor")
    (clone.folder / "new.txt").write_text("x")
    assert "The repository has uncommitted changes: ?? new.txt." in clone.refused("bump", "major")
    assert "The repository has uncommitted changes: ?? new.txt." in clone.refused("tag")
    clone.commit({"CHANGELOG.md": CHANGELOG.replace("- ", "")})
    assert "The section [Unreleased] says nothing" in clone.refused("bump", "major")
    clone.commit({"CHANGELOG.md": "# Changelog\n"})
    assert "There are 0 sections [Unreleased]; the sections are: none." in clone.refused(
        "bump", "major"
    )


def test_a_tag_that_does_not_agree(clone: Clone) -> None:
    clone.done("bump", "minor")
    clone.done("tag")
    clone.git("tag", "v0.3.0")
    clone.git("tag", "0.2.0")
    assert "The tag is v0.3.0, and the version of the project is 0.2.0." in clone.refused(
        "check", "v0.3.0"
    )
    assert "The tag is 0.2.0" in clone.refused("check", "0.2.0")
    assert "'v2' is not a semantic version." in clone.refused("check", "v2")
    assert "There are 0 sections [0.3.0]" in clone.refused("notes", "0.3.0")
    clone.commit({"more.txt": "x"})
    assert "The checked-out commit is not the one of v0.2.0" in clone.refused("check", "v0.2.0")
    clone.git("checkout", "--quiet", "v0.2.0")
    clone.done("check", "v0.2.0")
    assert "this is no branch" in clone.refused("tag")


def test_a_commit_that_git_refuses_leaves_the_files_as_they_were(clone: Clone) -> None:
    hook = clone.folder / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'the hook says no' >&2\nexit 1\n")
    hook.chmod(0o755)
    said = clone.refused("bump", "minor")
    assert "The commit was not made, and the files are as they were" in said
    assert "git commit failed: the hook says no." in said


def test_a_section_without_a_day_is_not_released(clone: Clone) -> None:
    text = CHANGELOG.replace("## [0.1.0] - 2026-01-31", "## [0.1.0]")
    clone.commit({"CHANGELOG.md": text})
    assert "The section [0.1.0] has no day." in clone.refused("tag")


@pytest.mark.parametrize(
    ("part", "expected"), [("major", "2.0.0"), ("minor", "1.3.0"), ("patch", "1.2.10")]
)
def test_the_next_version(part: str, expected: str) -> None:
    assert str(Version(1, 2, 9).next(Part(part))) == expected


@pytest.mark.parametrize(
    "text", ["1.2", "1.2.3.4", "01.2.3", "1.2.3-rc.1", "", "v", "vv1.2.3", "1.2.3\n"]
)
def test_an_invalid_version_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a semantic version"):
        parse(text, where="here")


def test_a_version_that_is_not_where_it_is_looked_for_is_not_written() -> None:
    with pytest.raises(ConfigurationError, match="stands on 0 lines"):
        set_version(PYPROJECT, Version(9, 9, 9))
    twice = PYPROJECT.replace("  # moved", "") + 'version = "1"\n'
    with pytest.raises(ConfigurationError, match="stands on 2 lines"):
        set_version(twice, Version(9, 9, 9))


def test_a_version_is_released_once() -> None:
    with pytest.raises(ConfigurationError, match=re.escape("The section [0.1.0] is there already")):
        changelog.release_section(CHANGELOG, "0.1.0", date(2026, 1, 1))


def test_the_changelog_of_this_project_is_read() -> None:
    text = (REPOSITORY / changelog.FILE).read_text()
    assert changelog.parse_sections(text)[0].name == changelog.UNRELEASED
    for section in changelog.parse_sections(text)[1:]:
        parse(section.name, where=changelog.FILE)
        assert section.day is not None
        date.fromisoformat(section.day)
