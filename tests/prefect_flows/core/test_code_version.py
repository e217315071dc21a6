"""Which commit a run says it ran."""

from __future__ import annotations

import subprocess
from pathlib import Path

from prefect_flows.core.code_version import get_code_version
from prefect_flows.core.settings import Settings


def _git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *name, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_clone_has_its_commit_and_says_if_files_differ(tmp_path: Path) -> None:
    settings = Settings(project_dir=tmp_path, version=None)
    assert get_code_version(settings) is None, "not a repository"
    _git(tmp_path, "init", "--quiet")
    assert get_code_version(settings) is None, "without a commit"
    (tmp_path / "model.sql").write_text("select 1")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "--quiet", "--message", "Add a model")
    _git(tmp_path, "tag", "v1")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert get_code_version(settings) == commit[:12]
    (tmp_path / "model.sql").write_text("select 2")
    assert get_code_version(settings) == f"{commit[:12]}-dirty"
    assert get_code_version(Settings(project_dir=tmp_path, version="abc")) == "abc"
    inside = tmp_path / "inside"
    inside.mkdir()
    assert get_code_version(Settings(project_dir=inside, version=None)) is None
