"""Version of the project's code: its git commit."""

from __future__ import annotations

import re
from pathlib import Path

from prefect_flows.core import git
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings

DIRTY = "-dirty"
SHORT_COMMIT_LENGTH = 12
# A run asks git too, and must not wait for a slow disk.
GIT_SECONDS = 30


def format_version(commit: str, *, dirty: bool) -> str:
    """Return the short commit, with `-dirty` if files differ from it."""
    return commit[:SHORT_COMMIT_LENGTH] + DIRTY * dirty


def get_version(settings: Settings) -> str:
    """Return the version of the project's folder.

    An image has no git clone; it has its version in `MILLRACE_VERSION`.

    Raises:
        ConfigurationError: neither is available.
    """
    if settings.version is not None:
        return settings.version
    commit = _ask_git(settings.project_dir, "rev-parse", "HEAD")
    # Without the lock with which git would keep what it found: a person may commit meanwhile.
    status = ["--no-optional-locks", "status", "--porcelain"]
    changes = _ask_git(settings.project_dir, *status)
    return format_version(commit, dirty=bool(changes))


def refuse_missing_version(settings: Settings, version: str | None) -> None:
    """Refuse to run a deployment of a commit that this clone does not have.

    A clone that is ahead of the deployment runs it: its history has the commit. An image runs the
    version that it was built from.

    Args:
        settings: the settings, with the project's folder.
        version: version of the deployment; None for a run without one.

    Raises:
        ConfigurationError: the commit is not in the history of the checked-out one.
    """
    if version is None or settings.version is not None or not _has_history(settings.project_dir):
        return
    commit = version.removesuffix(DIRTY)
    if re.fullmatch(r"[0-9a-f]{7,40}", commit) is None:
        return  # a name that was given with MILLRACE_VERSION
    is_ancestor = ["merge-base", "--is-ancestor", commit, "HEAD"]
    try:
        _ask_git(settings.project_dir, *is_ancestor)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"The deployment was made from the commit {commit}, which the code of this worker does "
            "not have.",
            where=str(settings.project_dir),
            fix="update the worker's folder (git pull), or deploy the version that it has: uv run "
            "millrace deploy",
        ) from error


def _has_history(folder: Path) -> bool:
    """Return whether the folder is a clone that git can read, and whose history is whole.

    Git reads no clone of another user, for example.
    """
    if not (folder / ".git").exists() or (folder / ".git" / "shallow").exists():
        return False
    try:
        _ask_git(folder, "rev-parse", "HEAD")
    except ConfigurationError:
        return False
    return True


def _ask_git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return its output.

    Raises:
        ConfigurationError: the folder is not a clone, git is not installed, or takes too long.
    """
    try:
        return git.run(folder, *arguments, seconds=GIT_SECONDS).strip()
    except git.GitError as error:
        raise ConfigurationError(
            f"The version of the code is not known: {error.what}.",
            where=str(folder),
            fix="work in a git clone, or set MILLRACE_VERSION to the commit",
        ) from error
