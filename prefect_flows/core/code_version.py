"""Version of the project's code: its git commit."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings

DIRTY = "-dirty"
SHORT_COMMIT_LENGTH = 12


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
    commit = git(settings.project_dir, "rev-parse", "HEAD")
    return format_version(commit, dirty=bool(git(settings.project_dir, "status", "--porcelain")))


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
    command = ["git", "-C", str(settings.project_dir), "merge-base", "--is-ancestor", commit]
    if subprocess.run([*command, "HEAD"], capture_output=True, check=False).returncode != 0:
        raise ConfigurationError(
            f"The deployment was made from the commit {commit}, which the code of this worker does "
            "not have.",
            where=str(settings.project_dir),
            fix="update the worker's folder (git pull), or deploy the version that it has: uv run "
            "millrace deploy",
        )


def _has_history(folder: Path) -> bool:
    """Return whether the folder is a clone whose history is whole."""
    git_folder = folder / ".git"
    is_whole = git_folder.exists() and not (git_folder / "shallow").exists()
    return is_whole and shutil.which("git") is not None


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return its output.

    Raises:
        ConfigurationError: the folder is not a clone, or git is not installed.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
        said = done.stderr.strip()
    except OSError as error:
        done, said = None, str(error)
    if done is None or done.returncode != 0:
        raise ConfigurationError(
            f"The version of the code is not known: {said}.",
            where=str(folder),
            fix="work in a git clone, or set MILLRACE_VERSION to the commit",
        )
    return done.stdout.strip()
