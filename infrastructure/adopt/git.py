"""Run git, and turn its failures into errors that say what fixes them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from prefect_flows.core.errors import ConfigurationError, MillraceError
from prefect_flows.core.formatting import one_line

# A server that does not answer ends the command; git would ask a terminal for a password.
BATCH = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=20"}
SLOW = ["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=30"]


class GitError(MillraceError):
    """A git command failed."""


def run(folder: Path, *arguments: str, fix: str = "correct what git says") -> str:
    """Run git in a folder and return its output.

    Raises:
        GitError: git fails.
    """
    done = _run(["-C", str(folder), *arguments])
    if done.returncode != 0:
        raise GitError(
            f"git {_verb(arguments)} failed: {one_line(done.stderr or done.stdout)}",
            where=str(folder),
            fix=fix,
        )
    return done.stdout


def clone(url: str, folder: Path) -> None:
    """Clone the newest commit of a repository, without asking for a password.

    Raises:
        GitError: the URL does not answer, or access is refused.
    """
    done = _run([*SLOW, "clone", "--quiet", "--depth", "1", "--", url, str(folder)])
    if done.returncode != 0:
        raise GitError(
            f"The repository cannot be cloned: {one_line(done.stderr)}",
            where=url,
            fix=f"see that this answers without asking for a password: git ls-remote {url}; "
            "or clone it yourself and adopt the folder",
        )


def _verb(arguments: Sequence[str]) -> str:
    return arguments[2] if arguments[0] == "-c" else arguments[0]


def is_tracked(file: Path) -> bool:
    """Return whether a file is in the index of its repository."""
    name = ["ls-files", "--error-unmatch", "--", file.name]
    return _run(["-C", str(file.parent), *name]).returncode == 0


def is_worktree(folder: Path) -> bool:
    """Return whether a folder belongs to a git repository."""
    return _run(["-C", str(folder), "rev-parse", "--is-inside-work-tree"]).returncode == 0


def _run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    program = shutil.which("git")
    if program is None:
        raise ConfigurationError("git is not installed.", where="PATH", fix="install git")
    return subprocess.run(
        [program, *arguments], capture_output=True, encoding="utf-8", errors="backslashreplace",
        check=False, stdin=subprocess.DEVNULL, env=os.environ | BATCH,
    )  # fmt: skip
