"""Merge a release of the engine into a clone, in one commit that leaves the team's files alone.

Git merges path by path, without following renames: a file of the team that resembles one of the
example would count as that file, renamed. Then these rules apply:

- Parts of the example that the clone has not, or not whole, are left as the clone has them.
- Files that a team edits (`OWN`) are left as the clone has them where git finds a conflict.
- `pyproject.toml` keeps the team's version, dependencies and pins.
- What is generated comes from the release, and is generated again afterwards.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomlkit
import yaml

from infrastructure.adopt.change import EXAMPLE
from infrastructure.delivery.release.command import PYPROJECT
from infrastructure.update.pyproject import merge_pyproject
from infrastructure.update.releases import Update
from prefect_flows.core import git
from prefect_flows.core.errors import MillraceError
from prefect_flows.core.project_folder import SHARED_FILE
from prefect_flows.core.temporary_folders import private_folder

# Files of both sides which the team's version of wins; the README's table and
# documentation/how_to/update_the_engine.md list them too.
OWN = (
    "dbt", "prefect_flows/sources", "prefect.yaml", SHARED_FILE, "infrastructure/config",
    "README.md", "CHANGELOG.md", ".env.example", ".github", ".gitignore", ".sqlfluff",
)  # fmt: skip
LOCK = "requirements.lock"
REFERENCE = "documentation/reference"


class UpdateConflict(MillraceError):
    """The release and the clone changed the same engine files; nothing was changed."""


@dataclass(frozen=True)
class Merged:
    """A merged release.

    Attributes:
        changes: path → A, M or D, for each file that the commit adds, modifies or deletes.
        kept: files of the team that the release changed too, and that are as they were.
        has_own_lock: whether the clone had changed the list of locked packages.
    """

    changes: dict[str, str]
    kept: tuple[str, ...]
    has_own_lock: bool


def merge_release(update: Update, keep: Sequence[str], *, dry_run: bool) -> Merged:
    """Merge beside the working folder, commit, and move the branch and the folder to the commit.

    Args:
        update: the release and the clone.
        keep: further files that stay as the clone has them where git finds a conflict.
        dry_run: do not commit.

    Raises:
        UpdateConflict: both sides changed an engine file; nothing was changed.
        GitError: git cannot merge; nothing was changed.
    """
    ours = _diff(update.root, update.base, update.head)
    theirs = _diff(update.root, update.base, update.ref)
    known = _list_files(update, update.head)
    own_parts = _find_own_parts(update, known)
    has_own_lock = LOCK in ours and LOCK in theirs
    with _worktree(update) as tree:
        _merge_paths(update, tree)
        _take(tree, update.head, own_parts)
        if PYPROJECT in ours and PYPROJECT in theirs:
            _merge_pyproject_file(update, tree)
        generated = [path for path in _list_unmerged(tree) if is_below(path, [REFERENCE])]
        _take(tree, update.ref, [*generated, *([LOCK] if has_own_lock else [])])
        unmerged = _list_unmerged(tree)
        # Where one side has a folder of the other's name, git makes up a name that neither has.
        kept = [
            path
            for path in unmerged
            if is_below(path, [*OWN, *keep]) and (path in known or path in theirs)
        ]
        if conflicts := sorted(set(unmerged) - set(kept)):
            raise _conflict_error(update, conflicts)
        _take(tree, update.head, kept)
        _record_version(update, tree)
        # Of a part that is the clone's own, what the clone has as it was, and the release changed.
        kept += [path for path in theirs if path in known - set(ours) and is_below(path, own_parts)]
        kept.sort()
        changes = _diff(tree, "--cached", update.head)
        if not dry_run:
            _commit(update, tree, kept)
    return Merged(changes, tuple(kept), has_own_lock)


@contextmanager
def _worktree(update: Update) -> Iterator[Path]:
    with private_folder("update") as scratch:
        tree = scratch / "worktree"
        # A killed update leaves the entry of a folder that is gone.
        git.run(update.root, "worktree", "prune")
        add = ["worktree", "add", "--quiet", "--detach", str(tree), update.stand_in]
        git.run(update.root, *git.NO_HOOKS, *add)
        try:
            yield tree
        finally:
            git.run(update.root, "worktree", "remove", "--force", str(tree))


def _merge_paths(update: Update, tree: Path) -> None:
    settings = ["-c", "merge.ff=true", "-c", "rerere.enabled=false", *git.NO_HOOKS]
    try:
        git.run(tree, *settings, "merge", "--quiet", "--squash", "-X", "no-renames", update.ref)
    except git.GitError:
        if not _list_unmerged(tree):
            raise


def _find_own_parts(update: Update, known: set[str]) -> list[str]:
    """Return the parts of the example that the clone has not, not whole, or of its own.

    Args:
        update: the release and the clone.
        known: the files of the clone.
    """
    example = str(EXAMPLE)
    before = _list_files(update, update.base)
    is_gone = example in before and example not in known
    parts = {example}
    for commit, files in ((update.base, before), (update.ref, _list_files(update, update.ref))):
        if example in files:
            parts |= set(yaml.safe_load(git.run(update.root, "show", f"{commit}:{example}")))
    own = []
    for part in sorted(parts):
        was = {path for path in before if is_below(path, [part])}
        has = {path for path in known if is_below(path, [part])}
        if not was <= has or (not was and (is_gone or has)):
            own.append(part)
    return own


def _merge_pyproject_file(update: Update, tree: Path) -> None:
    texts = [
        git.run(update.root, "show", f"{commit}:{PYPROJECT}")
        for commit in (update.base, update.head, update.ref)
    ]
    merged = merge_pyproject(*texts)
    if merged is not None:
        (tree / PYPROJECT).write_text(merged)
        git.run(tree, "add", PYPROJECT)


def _record_version(update: Update, tree: Path) -> None:
    file = tree / SHARED_FILE
    # What lies in the folder may have the marks of a conflict.
    listed = git.run(tree, "ls-files", "--", SHARED_FILE)
    document = tomlkit.parse(git.run(tree, "show", f":{SHARED_FILE}") if listed else "")
    document["engine_version"] = str(update.version)
    file.write_text(tomlkit.dumps(document))
    git.run(tree, "add", SHARED_FILE)


def _commit(update: Update, tree: Path, kept: Sequence[str]) -> None:
    git.run(tree, "reset", "--quiet", "--soft", update.head)
    message = f"Update the engine to {update.version}\n"
    if kept:
        compare = "".join(f"\n  {format_comparison(update, path)}" for path in kept)
        message += f"\nKept as they were, although the release changed them too:\n{compare}\n"
    git.run(tree, *git.NO_HOOKS, "commit", "--quiet", "--message", message)
    made = git.run(tree, "rev-parse", "HEAD").strip()
    # Files that git ignores, such as .env, are not replaced.
    git.run(update.root, "merge", "--quiet", "--ff-only", "--no-overwrite-ignore", made)


def format_comparison(update: Update, path: str) -> str:
    """Return the command that shows what the release changed in a file."""
    return f"git diff {update.base[:12]} {update.ref} -- {shlex.quote(path)}"


def _conflict_error(update: Update, conflicts: Sequence[str]) -> UpdateConflict:
    listed = "\n".join(f"  - {path}" for path in conflicts)
    return UpdateConflict(
        f"The release {update.version.tag} and this clone changed the same lines of "
        f"{len(conflicts)} file(s) of the engine; nothing was changed:\n{listed}",
        where=str(update.root),
        fix=f"see what you changed (git diff {update.base[:12]} HEAD -- FILE) and what the release "
        f"changed (git diff {update.base[:12]} {update.ref} -- FILE); write the release's lines "
        "into yours and commit, then update again; or leave a file as it is with --keep FILE",
    )


def _take(tree: Path, commit: str, paths: Iterable[str]) -> None:
    """Put the files of a commit into the index of the merge, at these paths and below them."""
    if paths := list(paths):
        git.run(tree, "--literal-pathspecs", "reset", "--quiet", commit, "--", *paths)


def is_below(path: str, folders: Iterable[str]) -> bool:
    """Return whether a path is one of these, or below one of them."""
    return any(Path(path).is_relative_to(folder) for folder in folders)


def _list_files(update: Update, commit: str) -> set[str]:
    listed = git.run(update.root, "ls-tree", "-r", "-z", "--name-only", commit)
    return set(listed.split("\0")) - {""}


def _list_unmerged(tree: Path) -> list[str]:
    return list(_diff(tree, "--diff-filter=U"))


def _diff(folder: Path, *arguments: str) -> dict[str, str]:
    listed = git.run(folder, "diff", "--name-status", "--no-renames", "-z", *arguments)
    words = listed.split("\0")
    return dict(zip(words[1::2], words[0::2], strict=False))
