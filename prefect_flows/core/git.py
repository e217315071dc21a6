"""Run git, and turn its failures into errors that say what fixes them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from prefect_flows.core.errors import ConfigurationError, MillraceError
from prefect_flows.core.formatting import one_line

# A server that does not answer ends the command; git would ask a terminal for a password.
BATCH = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=20"}
SLOW = ("-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=30")
NO_HOOKS = ("-c", "core.hooksPath=/dev/null")
_LOGIN = re.compile(r"://[^/@]*:[^/@]*@")


class GitError(MillraceError):
    """A git command failed."""


def run(
    folder: Path,
    *arguments: str,
    fix: str = "correct what git says",
    seconds: float | None = None,
) -> str:
    """Run git in a folder and return its output.

    Args:
        folder: the folder.
        arguments: the command of git.
        fix: what fixes a failure.
        seconds: time limit; none by default.

    Raises:
        ConfigurationError: git is not installed.
        GitError: git fails, or takes too long.
    """
    try:
        done = _run(["-C", str(folder), *arguments], seconds)
        said = None if done.returncode == 0 else done.stderr or done.stdout
    except subprocess.TimeoutExpired as error:
        done, said = None, str(error)
    if done is None or said is not None:
        raise GitError(
            f"git {_verb(arguments)} failed: {one_line(said or '')}", where=str(folder), fix=fix
        )
    return done.stdout


def succeeds(folder: Path, *arguments: str) -> bool:
    """Return whether a git command succeeds: for questions whose answer is the exit code."""
    return _run(["-C", str(folder), *arguments]).returncode == 0


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


def refuse_password(url: str) -> None:
    """Refuse a URL with a password.

    Raises:
        ConfigurationError: it has one.
    """
    if _LOGIN.search(url):
        raise ConfigurationError(
            "The URL has a password in it, which other users of this machine could read.",
            where=_LOGIN.sub("://…@", url),
            fix="leave it out; git asks its credential helper, or uses your SSH key",
        )


def refuse_no_repository(folder: Path) -> None:
    """Refuse a folder without git.

    Raises:
        ConfigurationError: it belongs to no repository.
    """
    if not is_worktree(folder):
        raise ConfigurationError(
            "This folder is not a git repository, so a change could not be undone.",
            where=str(folder),
            fix="clone Millrace with git, and run the command in the clone",
        )


def refuse_unclean(folder: Path) -> None:
    """Refuse a repository in which a commit cannot be made, or not be undone.

    Raises:
        ConfigurationError: it has uncommitted changes.
        GitError: git does not know who commits, or the folder is no repository.
    """
    run(
        folder, "var", "GIT_COMMITTER_IDENT",
        fix="tell git who you are: git config user.name NAME; git config user.email ADDRESS",
    )  # fmt: skip
    if changed := run(folder, "status", "--porcelain"):
        raise ConfigurationError(
            f"The repository has uncommitted changes: {' '.join(changed.split())[:300]}.",
            where=str(folder),
            fix="commit them, or put them away with git stash --include-untracked",
        )


def _verb(arguments: Sequence[str]) -> str:
    options = list(arguments)
    while options[0].startswith("-"):
        options = options[2 if options[0] == "-c" else 1 :]
    return options[0]


def is_tracked(file: Path) -> bool:
    """Return whether a file is in the index of its repository."""
    return succeeds(file.parent, "ls-files", "--error-unmatch", "--", file.name)


def is_worktree(folder: Path) -> bool:
    """Return whether a folder belongs to a git repository."""
    return succeeds(folder, "rev-parse", "--is-inside-work-tree")


def _run(
    arguments: Sequence[str], seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    program = shutil.which("git")
    if program is None:
        raise ConfigurationError("git is not installed.", where="PATH", fix="install git")
    return subprocess.run(
        [program, *arguments], capture_output=True, encoding="utf-8", errors="backslashreplace",
        check=False, stdin=subprocess.DEVNULL, env=os.environ | BATCH, timeout=seconds,
    )  # fmt: skip
