"""`millrace update`: bring a newer release of the engine into a team's repository."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infrastructure.delivery.release.command import PYPROJECT
from infrastructure.update.merge import (
    LOCK,
    OWN,
    REFERENCE,
    Merged,
    format_comparison,
    is_below,
    merge_release,
)
from infrastructure.update.releases import Update, choose_update, fetch_releases, refuse_unready
from prefect_flows.core import git
from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError, MillraceError
from prefect_flows.core.project_folder import require_engine
from prefect_flows.core.settings import load_settings

app = typer.Typer(add_completion=False)
STATUSES = {"A": "new", "D": "removed"}
# The packages of all sources too: the reference imports their flows.
SYNC = ("uv", "sync", "--all-packages")


class UpdateUnfinished(MillraceError):
    """The release is merged, but a later step failed."""

    exit_code = 1


@app.command()
@exits_with_expected_errors
def update(
    to: Annotated[
        str | None, typer.Option(metavar="TAG", help="The release; the newest by default.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="GIT-URL|REMOTE",
            help="Repository of the engine; by default engine_url of millrace.toml.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Show notes and files and whether it merges, and stop."),
    ] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Keep your version of engine files that both changed; repeatable.",
        ),
    ] = None,
    merge_only: Annotated[
        bool, typer.Option("--merge-only", help="Do not run uv sync and the tests afterwards.")
    ] = False,
) -> None:
    """Merge a release of the engine in one commit, which leaves your files as they are.

    Your dbt project, sources and configuration stay; what the release changes in them is merged
    only if it does not conflict. Parts of the example that you removed do not come back.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    settings = load_settings()
    require_engine(
        settings.project_dir,
        "update",
        "install another version: uv lock --upgrade-package millrace; uv sync",
    )
    refuse_unready(settings.project_dir)
    chosen = choose_update(settings, fetch_releases(settings, url), to)
    if not chosen.is_newer:
        has = (
            f"this clone has the engine {chosen.base_version}, and {chosen.version.tag} is not "
            "newer."
        )
        if to is not None:
            raise ConfigurationError(
                f"There is nothing to update: {has}",
                where="--to",
                fix="name a newer release, or undo an update with git revert",
            )
        console.print(f"Up to date: {has}")
        return
    console.print(f"{chosen.read_notes()}\n")
    merged = merge_release(chosen, keep or (), dry_run=check)
    _print_files(console, chosen, merged, in_full=check)
    if check:
        console.print("\nIt merges without a conflict. Nothing was changed.")
        return
    _finish(console, chosen, merged, merge_only=merge_only)


def _print_files(console: Console, update: Update, merged: Merged, *, in_full: bool) -> None:
    own = {path: kind for path, kind in merged.changes.items() if is_below(path, OWN)}
    engine = {path: kind for path, kind in merged.changes.items() if path not in own}
    counts = Counter(STATUSES.get(kind, "changed") for kind in engine.values())
    numbers = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    console.print(f"Files of the engine: {numbers or 'none'}")
    for path, kind in engine.items() if in_full else ():
        console.print(f"  {kind} {path}")
    if own:
        console.print("Your files, in which the release's changes are merged:")
    for path, kind in own.items():
        console.print(f"  {kind} {path}")
    if merged.kept:
        console.print("Your files, left as they are, although the release changed them too:")
    for path in merged.kept:
        console.print(f"  {format_comparison(update, path)}")


def _finish(console: Console, update: Update, merged: Merged, *, merge_only: bool) -> None:
    """Install the release's packages, generate what is generated, and run the tests."""
    made = f"\nUpdated the engine to {update.version} in one commit"
    sync = " ".join(SYNC)
    undo = f"git reset --hard {update.head[:12]} && {sync}"
    steps = [
        *([(".ci/pins", "--keep")] if merged.has_own_lock else []),
        SYNC,
        ("uv", "run", "millrace", "reference"),
    ]
    commit = "COMMIT"
    if merge_only:
        console.print(f"{made}. What next:")
        for step in steps:
            console.print(f"  {' '.join(step)}")
        console.print("  git commit --all --amend --no-edit\n  uv run pytest")
    else:
        for step in steps:
            _run(update.root, step, undo)
        if git.run(update.root, "status", "--porcelain"):
            git.run(update.root, "add", PYPROJECT, LOCK, REFERENCE)
            git.run(update.root, *git.NO_HOOKS, "commit", "--quiet", "--amend", "--no-edit")
        _run(update.root, ("uv", "run", "pytest"), undo)
        commit = git.run(update.root, "rev-parse", "--short", "HEAD").strip()
        console.print(f"{made}, and the tests pass.")
    console.print(f"To undo it before you push: {undo}")
    console.print(f"To undo it after you pushed: git revert {commit} && {sync}")


def _run(root: Path, command: Sequence[str], undo: str) -> None:
    # `uv run` says where it is.
    program = os.environ.get("UV", "uv") if command[0] == "uv" else command[0]
    if subprocess.run([program, *command[1:]], cwd=root, check=False).returncode != 0:
        raise UpdateUnfinished(
            f"The release is merged, but this failed: {' '.join(command)}.",
            where=str(root),
            fix=f"correct what is said above and run it again, or undo the update: {undo}",
        )
