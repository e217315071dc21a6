"""Which version of the project's code runs."""

from __future__ import annotations

import shutil
import subprocess

from prefect_flows.core.settings import Settings

# `git describe` compares every tracked file with its commit.
GIT_SECONDS = 10


def get_code_version(settings: Settings) -> str | None:
    """Return the commit of the code, with `-dirty` after it if files differ from it.

    Returns:
        `settings.version` if it is set; else what git says about the project's folder; None if the
        folder is not the top of a git repository, or git cannot read it.
    """
    if settings.version is not None:
        return settings.version
    git = shutil.which("git")
    if git is None or not (settings.project_dir / ".git").exists():
        return None
    command = [git, "-C", str(settings.project_dir), "describe", "--always", "--dirty"]
    command += ["--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
