"""Releases of an upstream repository are merged into clones of teams, which keep what is theirs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from infrastructure.adopt import change
from infrastructure.adopt.change import EXAMPLE
from infrastructure.adopt.project_files import open_project
from infrastructure.update.command import app
from infrastructure.update.merge import OWN
from infrastructure.update.pyproject import merge_pyproject
from prefect_flows.core.settings import Settings
from tests.support.project import REPOSITORY, copy_of_the_project

pytestmark = pytest.mark.example

FOREIGN_DBT = REPOSITORY / "tests" / "support" / "dbt_projects" / "foreign"
# Files of the engine: changed, new and removed by the second release.
ENGINE_FILE = "prefect_flows/core/formatting.py"
NEW_FILE = "prefect_flows/core/new_part.py"
REMOVED = "benchmarks/report.py"
# Files of the example.
SCHEMA_NAMES = "dbt/macros/generate_schema_name.sql"
INBOX = "prefect_flows/sources/files__inbox/README.md"
NEW_MODEL = "dbt/models/marts/core/new_of_example.sql"
NEW_SOURCE = "prefect_flows/sources/new__example/source.py"
# Files that a team edits.
POOLS = "infrastructure/config/pools.yaml"
TFVARS = "infrastructure/terraform/postgres/terraform.tfvars"
CRON = "cron: 0 2 * * *"
LAST_DEPENDENCY = '    "typer>=0.15",\n'


@dataclass
class Repository:
    """A git repository of the project."""

    folder: Path

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def identify(self) -> None:
        self.git("config", "user.name", "A person")
        self.git("config", "user.email", "person@example.com")

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def edit(self, name: str, old: str, new: str) -> None:
        assert old in self.read(name)
        self.write({name: self.read(name).replace(old, new, 1)})

    def append(self, *names: str, text: str = "# changed\n") -> None:
        self.write({name: self.read(name) + text for name in names})

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def release(self, version: str, note: str) -> None:
        text, log = self.read("pyproject.toml"), self.read("CHANGELOG.md")
        old = text.partition('\nversion = "')[2].partition('"')[0]
        section = f"## [{version}] - 2027-01-01\n\n- {note}\n"
        self.write({
            "pyproject.toml": text.replace(f'version = "{old}"', f'version = "{version}"', 1),
            "CHANGELOG.md": log.replace("[Unreleased]\n", f"[Unreleased]\n\n{section}"),
        })  # fmt: skip
        self.commit(f"Release {version}")
        self.git("tag", "--annotate", "--message", f"Release {version}", f"v{version}")

    def blobs(self, commit: str = "HEAD") -> dict[str, str]:
        """All files of a commit, with the hash of their content."""
        listed = self.git("ls-tree", "-r", "-z", commit).split("\0")
        return {line.partition("\t")[2]: line.split()[2] for line in listed if line}

    def state(self) -> list[str]:
        """All that an update could change, aside from its refs/millrace."""
        asked = (
            ("rev-parse", "HEAD"), ("status", "--porcelain"), ("worktree", "list"),
            ("for-each-ref", "refs/heads", "refs/tags", "refs/stash"),
        )  # fmt: skip
        return [self.git(*each) for each in asked]


@dataclass
class Clone(Repository):
    """A team's clone, and the command in it."""

    def update(self, *arguments: str) -> Result:
        environment = {"MILLRACE_PROJECT_DIR": str(self.folder)}
        return CliRunner().invoke(app, arguments, env=environment)

    def updated(self, *arguments: str) -> str:
        done = self.update("--merge-only", *arguments)
        assert done.exit_code == 0, done.output
        assert self.git("status", "--porcelain") == ""
        assert self.git("worktree", "list").count("\n") == 0
        return done.stdout

    def refused(self, *arguments: str) -> str:
        before = self.state()
        done = self.update(*arguments)
        assert done.exit_code == 2, done.output
        assert "where:" in done.stderr
        assert "fix:" in done.stderr
        assert self.state() == before
        return " ".join(done.stderr.split())


def is_below(path: str, folders: Iterable[str | Path]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The project at three releases."""
    found = Repository(tmp_path_factory.mktemp("upstream") / "millrace")
    copy_of_the_project(found.folder)
    found.write({"CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n"})
    found.git("init", "--quiet", "--initial-branch=main")
    found.identify()
    found.release("1.0.0", "The first.")

    found.append(ENGINE_FILE, INBOX, POOLS, "README.md")
    found.edit(SCHEMA_NAMES, "\n", "\n-- changed\n")
    found.edit("prefect.yaml", CRON, "cron: 0 3 * * *")
    found.edit("requirements.lock", "\n", "\n# changed\n")
    found.edit("pyproject.toml", LAST_DEPENDENCY, f'{LAST_DEPENDENCY}    "engine-part>=1",\n')
    found.edit("pyproject.toml", '    "agate==', '    "engine-part==1.2",\n    "agate==0')
    found.edit(str(EXAMPLE), "- dbt\n", "- dbt\n- prefect_flows/sources/new__example\n")
    found.write({NEW_FILE: "# new\n", NEW_MODEL: "select 1 as new\n", NEW_SOURCE: "# new\n"})
    found.git("rm", "--quiet", REMOVED)
    found.release("1.1.0", "The second, with `markup` [in it].")

    found.edit(ENGINE_FILE, "# changed\n", "# changed again\n")
    found.release("1.2.0", "The third.")
    return found


def make_clone(upstream: Repository, folder: Path) -> Clone:
    clone = Clone(folder)
    upstream.git("clone", "--quiet", "--branch", "v1.0.0", str(upstream.folder), str(folder))
    clone.identify()
    clone.git("switch", "--quiet", "--create", "ours")
    # A colleague's clone of the team's repository has no release of the engine.
    clone.git("remote", "remove", "origin")
    clone.git("tag", "--delete", "v1.0.0", "v1.1.0", "v1.2.0")
    clone.append("millrace.toml", text=f'engine_url = "file://{upstream.folder}"\n')
    clone.commit("Name the engine")
    return clone


@pytest.fixture
def clone(upstream: Repository, tmp_path: Path) -> Clone:
    """A clone of a team that keeps the example beside models of its own."""
    found = make_clone(upstream, tmp_path / "clone")
    # The release adds a file of the second name.
    found.write({"dbt/models/ours.sql": "select 1 as ours\n", NEW_MODEL: "select 2 as ours\n"})
    found.edit("prefect.yaml", CRON, "cron: 30 5 * * *")
    found.commit("Add models")
    return found


@pytest.fixture
def adopted(upstream: Repository, tmp_path: Path) -> Clone:
    """A clone that adopted a project, and has sources, dependencies and pins of its own."""
    found = make_clone(upstream, tmp_path / "adopted")
    scratch = tmp_path / "scratch"
    project = open_project(str(FOREIGN_DBT), None, scratch)
    project.copy(scratch / "dbt")
    choices = change.Choices(["reporting"], [], ["postgres"], {})
    change.commit(Settings(project_dir=found.folder), scratch, project, choices, "Adopt")
    found.git("checkout", "HEAD~", "--", "prefect_flows/sources/files__inbox")
    found.write({
        "prefect_flows/sources/shop__orders/source.py": "# ours\n",
        TFVARS: 'state_url = "ours"\n', ".env.example": "# ours\n", "README.md": "# Ours\n",
    })  # fmt: skip
    found.edit("prefect.yaml", CRON, "cron: 30 5 * * *")
    added = '    # Why we need it.\n    "our-part>=2",\n'
    found.edit("pyproject.toml", LAST_DEPENDENCY, LAST_DEPENDENCY + added)
    found.edit("pyproject.toml", '    "agate==', '    "our-part==2.1",\n    "agate==')
    found.edit("pyproject.toml", 'version = "1.0.0"', 'version = "7.0.0"')
    found.edit("requirements.lock", "\n", "\n# ours\n")
    found.git("add", "--force", TFVARS)
    found.commit("Add what is ours")
    return found


@pytest.mark.conformance
def test_an_adopted_clone_gets_the_engine_and_nothing_of_the_example(
    upstream: Repository, adopted: Clone
) -> None:
    before, release = adopted.blobs(), upstream.blobs("v1.1.0")

    # WHEN it is only checked, THEN notes and files are shown, and nothing happens
    state = adopted.state()
    done = adopted.update("--check", "--to", "v1.1.0")
    assert done.exit_code == 0, done.output
    assert adopted.state() == state
    for line in (
        "## 1.1.0\n\n- The second, with `markup` [in it].\n",
        f"  M {ENGINE_FILE}\n",
        f"  A {NEW_FILE}\n",
        f"  D {REMOVED}\n",
        "It merges without a conflict. Nothing was changed.",
    ):
        assert line in done.stdout
    assert "The first" not in done.stdout

    # WHEN it is updated, THEN all is in one commit with one parent
    said = adopted.updated("--to", "1.1.0")
    assert adopted.git("log", "-1", "--format=%P %s") == f"{state[0]} Update the engine to 1.1.0"
    after = adopted.blobs()

    # AND the team's files are as they were, or have merged changes
    own = {path for path in before | after if is_below(path, [*OWN, TFVARS])} - {"millrace.toml"}
    merged = {INBOX, POOLS, "CHANGELOG.md"}
    assert {path: after.get(path) for path in own - merged} == {
        path: before.get(path) for path in own - merged
    }
    assert {path: after[path] for path in merged} == {path: release[path] for path in merged}

    # AND nothing of the example is there, but for the connector that the team took back
    example = {"dbt", str(EXAMPLE), *yaml.safe_load(upstream.git("show", f"v1.1.0:{EXAMPLE}"))}
    example -= {str(Path(INBOX).parent)}
    assert not [path for path in after if is_below(path, example) and path not in before]

    # AND the rest is the release's
    assert {path for path in after if path not in own and after[path] != release.get(path)} == {
        "millrace.toml", "pyproject.toml", ".sqlfluffignore",
        "documentation/reference/commands.md", "documentation/reference/flows.md",
    }  # fmt: skip
    assert not [p for p in release if p not in after and not is_below(p, example)]

    # AND pyproject.toml has what both added
    text = adopted.read("pyproject.toml")
    for line in (
        'version = "7.0.0"\n',
        '    "engine-part>=1",\n',
        '    # Why we need it.\n    "our-part>=2",\n]\n',
        '    "engine-part==1.2",\n',
        '    "our-part==2.1",\n',
        '    "agate==0',
        "sources = []\n",
    ):
        assert text.count(line) == 1, line
    assert text.count('"agate==') == 1
    assert "  .ci/pins --keep\n" in said

    # AND the file that both changed is named, with a command that shows the difference
    (command,) = re.findall(r"^  (git diff .* -- prefect.yaml)$", said, re.MULTILINE)
    assert "+      - {cron: 0 3" in adopted.git(*command.split()[1:])
    assert command in adopted.git("log", "-1", "--format=%b")

    # WHEN it is updated again, THEN only what is new since is merged
    assert "The second" not in adopted.updated()
    changed = adopted.git("diff", "--name-only", "HEAD~").split()
    assert changed == ["CHANGELOG.md", "millrace.toml", ENGINE_FILE]
    assert "Up to date: this clone has the engine 1.2.0" in adopted.updated()

    # WHEN both are reverted, THEN all is as before, and can be updated again
    adopted.git("revert", "--no-edit", "HEAD", "HEAD~")
    assert adopted.blobs() == before
    adopted.updated()
    assert adopted.blobs()[ENGINE_FILE] == upstream.blobs("v1.2.0")[ENGINE_FILE]


def test_a_clone_that_keeps_the_example_keeps_its_own_files(
    upstream: Repository, clone: Clone
) -> None:
    before, release = clone.blobs(), upstream.blobs("v1.2.0")
    said = clone.updated()
    after = clone.blobs()
    for path in ("dbt/models/ours.sql", NEW_MODEL, "prefect.yaml"):
        assert after[path] == before[path]
    for path in (ENGINE_FILE, NEW_FILE, SCHEMA_NAMES, NEW_SOURCE, "pyproject.toml", "README.md"):
        assert after[path] == release[path]
    assert "1 new, 1 removed" in said
    assert re.findall(r"git diff .* -- (.*)", said) == [NEW_MODEL, "prefect.yaml"]
    assert f"  M {SCHEMA_NAMES}\n" in said

    # The printed command brings back the tree from before.
    (undo,) = re.findall(r"before you push: (git reset --hard \w+) && uv sync --all-packages", said)
    clone.git(*undo.split()[1:])
    assert clone.blobs() == before
    assert clone.git("status", "--porcelain") == ""


def test_a_part_of_the_example_that_was_removed_by_hand_does_not_return(clone: Clone) -> None:
    clone.git("rm", "--quiet", "-r", "prefect_flows/sources/files__inbox")
    clone.git("rm", "--quiet", "dbt/models/marts/core/fct_flights.sql")
    clone.commit("Remove what we do not need")
    before = clone.blobs()
    assert f"-- {SCHEMA_NAMES}\n" in clone.updated()
    after = clone.blobs()
    assert NEW_SOURCE in after
    parts = ["dbt", "prefect_flows/sources/files__inbox"]
    assert {path: blob for path, blob in after.items() if is_below(path, parts)} == {
        path: blob for path, blob in before.items() if is_below(path, parts)
    }


def test_a_plain_merge_between_two_updates_is_seen(upstream: Repository, clone: Clone) -> None:
    clone.updated("--to", "1.1.0")
    clone.git("fetch", "--quiet", "--no-tags", str(upstream.folder), "v1.2.0")
    clone.git("merge", "--quiet", "--strategy=ours", "--message", "Merge", "FETCH_HEAD")
    assert "Up to date: this clone has the engine 1.2.0" in clone.updated()


def test_pins_are_merged_package_by_package() -> None:
    def text(*pins: str) -> str:
        lines = "".join(f'    "{pin}",\n' for pin in pins)
        return (
            '[project]\nversion = "1.0.0"\n\n[tool.uv]\nconstraint-dependencies = [\n'
            f"    # BEGIN pins, which a program writes\n{lines}    # END pins\n]\n"
        )

    base = text("a==1", "b==1", "c==1", "d==1 ; os_name == 'nt'", "d==2", "e==1")
    ours = text("a==2", "b==2", "d==1 ; os_name == 'nt'", "d==2", "e==1", "ours==1")
    theirs = text("a==1", "b==3", "c==1", "d==3", "new==1")
    assert merge_pyproject(base, ours, theirs) == text("a==2", "b==3", "d==3", "new==1", "ours==1")


def test_a_conflict_in_the_engine_changes_nothing_and_can_be_kept(clone: Clone) -> None:
    clone.append(ENGINE_FILE, text="# ours\n")
    clone.write({NEW_FILE: "# ours\n"})
    clone.edit("pyproject.toml", LAST_DEPENDENCY, '    "typer>=0.20",\n')
    clone.commit("Change the engine")
    said = clone.refused()
    assert "changed the same lines of 3 file(s) of the engine; nothing was changed:" in said
    assert f"- {ENGINE_FILE} - {NEW_FILE} - pyproject.toml where:" in said
    assert clone.refused("--check") == said
    clone.edit("pyproject.toml", '    "typer>=0.20",\n', LAST_DEPENDENCY)
    clone.commit("Take the release's bound")
    assert "of 2 file(s)" in clone.refused("--to", "1.1.0")
    said = clone.updated("--keep", ENGINE_FILE, "--keep", NEW_FILE)
    assert (clone.read(ENGINE_FILE)[-7:], clone.read(NEW_FILE)) == ("# ours\n", "# ours\n")
    assert f"-- {ENGINE_FILE}\n" in said


def test_releases_that_cannot_be_merged_are_refused(
    clone: Clone, upstream: Repository, tmp_path: Path
) -> None:
    assert "There is no release v9.0.0; there are: v1.2.0, v1.1.0, v1.0.0." in clone.refused(
        "--to", "v9.0.0"
    )
    assert "'main' is not a semantic version" in clone.refused("--to", "main")
    assert "has the engine 1.0.0, and v1.0.0 is not newer" in clone.refused("--to", "v1.0.0")
    assert "cannot be fetched" in clone.refused("--from", f"file://{tmp_path}/nowhere")
    said = clone.refused("--from", "https://me:s3cret@example.com/millrace.git")
    assert "has a password in it" in said
    assert "s3cret" not in said

    other = Repository(tmp_path / "other")
    other.write({"CHANGELOG.md": "", "pyproject.toml": ""})
    other.git("init", "--quiet")
    other.identify()
    other.commit("Begin")
    assert "has no release" in clone.refused("--from", f"file://{other.folder}")
    other.git("tag", "v3.0.0")
    assert "no commit in common" in clone.refused("--from", f"file://{other.folder}")

    clone.edit("millrace.toml", "engine_url", "# engine_url")
    clone.commit("Forget the engine")
    assert "add a line: engine_url = " in clone.refused()
    # The name of a remote is a place too.
    clone.git("remote", "add", "upstream", str(upstream.folder))
    assert clone.update("--check", "--from", "upstream").exit_code == 0
    clone.append("millrace.toml", text='engine_version = "1.0.9"\n')
    clone.commit("Have an engine that nobody released")
    assert "has the engine 1.0.9, but there is no such release" in clone.refused(
        "--from", "upstream"
    )


def test_clones_that_cannot_take_a_commit_are_refused(clone: Clone) -> None:
    clone.write({"new.sql": "select 1"})
    assert "uncommitted changes: ?? new.sql" in clone.refused()
    (clone.folder / "new.sql").unlink()

    clone.git("switch", "--quiet", "--create", "side")
    clone.append("Makefile")
    clone.commit("Change a file")
    clone.git("switch", "--quiet", "ours")
    clone.git("merge", "--quiet", "--no-commit", "--no-ff", "side")
    assert "A merge is not finished. where:" in clone.refused()
    clone.git("merge", "--abort")
    clone.git("checkout", "--quiet", "--detach")
    assert "No branch is checked out" in clone.refused()
    clone.git("switch", "--quiet", "ours")

    # A file that git ignores is not replaced.
    (clone.folder / ".git" / "info" / "exclude").write_text("new_part.py\n")
    clone.write({NEW_FILE: "# ours\n"})
    assert "git merge failed" in clone.refused()
    assert clone.read(NEW_FILE) == "# ours\n"

    shutil.rmtree(clone.folder / ".git")
    assert "This folder is not a git repository" in clone.update().stderr


@pytest.mark.nightly
def test_packages_and_tests_of_the_release_run_after_the_merge(tmp_path: Path) -> None:
    upstream = Repository(tmp_path / "millrace")
    copy_of_the_project(upstream.folder)
    upstream.write({"CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n"})
    upstream.git("init", "--quiet", "--initial-branch=main")
    upstream.identify()
    upstream.release("1.0.0", "The first.")
    clone = Clone(tmp_path / "clone")
    upstream.git("clone", "--quiet", str(upstream.folder), str(clone.folder))
    clone.identify()
    upstream.append(ENGINE_FILE)
    upstream.release("1.0.1", "A correction.")
    environment = {name: text for name, text in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["PYTEST_ADDOPTS"] = "-n 0 tests/prefect_flows/core/test_code_version.py"

    done = subprocess.run(
        ["uv", "run", "millrace", "update", "--from", "origin"], cwd=clone.folder, check=False,
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "Updated the engine to 1.0.1 in one commit, and the tests pass." in done.stdout
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("log", "-1", "--format=%s") == "Update the engine to 1.0.1"
    assert clone.git("rev-parse", "HEAD~") == clone.git("rev-parse", "origin/main")
