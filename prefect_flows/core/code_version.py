"""Version of the project's code: its git commit."""

from __future__ import annotations

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
