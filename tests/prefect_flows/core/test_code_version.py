"""Which commit a run says it ran."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from prefect_flows.core.code_version import get_version, refuse_missing_version
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings


def _git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *name, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_clone_has_its_commit_and_says_if_files_differ(tmp_path: Path) -> None:
    settings = Settings(project_dir=tmp_path, version=None)
    with pytest.raises(ConfigurationError, match="not a git repository"):
        get_version(settings)
    _git(tmp_path, "init", "--quiet")
    with pytest.raises(ConfigurationError, match="The version of the code is not known"):
        get_version(settings)
    (tmp_path / "model.sql").write_text("select 1")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "--quiet", "--message", "Add a model")
    _git(tmp_path, "tag", "v1")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert get_version(settings) == commit[:12]
    (tmp_path / "model.sql").write_text("select 2")
    assert get_version(settings) == f"{commit[:12]}-dirty"
    assert get_version(Settings(project_dir=tmp_path, version="abc")) == "abc"


def test_a_clone_runs_deployments_of_its_own_history_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(project_dir=tmp_path, version=None)
    refuse_missing_version(settings, "0123456789ab")  # no clone: nothing is known
    _git(tmp_path, "init", "--quiet")
    commits = []
    for number in range(2):
        (tmp_path / "model.sql").write_text(f"select {number}")
        _git(tmp_path, "add", ".")
        _git(tmp_path, "commit", "--quiet", "--message", f"Change {number}")
        commits.append(_git(tmp_path, "rev-parse", "HEAD")[:12])
    first, second = commits
    for version in (None, first, second, f"{second}-dirty", "v1.2.3", "--all"):
        refuse_missing_version(settings, version)
    _git(tmp_path, "checkout", "--quiet", first)
    refuse_missing_version(settings, first)
    for missing in (second, "0123456789ab", f"{second}-dirty"):
        with pytest.raises(ConfigurationError, match="which the code of this worker does not have"):
            refuse_missing_version(settings, missing)
    refuse_missing_version(Settings(project_dir=tmp_path, version="image"), second)
    _git(tmp_path, "checkout", "--quiet", "--detach", second)
    # What is in a clone of another user cannot be known either.
    with monkeypatch.context() as patch:
        patch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        with pytest.raises(ConfigurationError, match="dubious ownership"):
            get_version(settings)
        refuse_missing_version(settings, "0123456789ab")
    (tmp_path / ".git" / "shallow").write_text("")
    refuse_missing_version(settings, "0123456789ab")  # its history is not whole
