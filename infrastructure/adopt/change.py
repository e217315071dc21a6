"""The one commit that puts the adopted project in the place of the example."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
import yaml

from infrastructure.adopt.project_files import PROFILES_FILE, ForeignProject
from infrastructure.setup_profiles.profiles_yml import HEADER
from prefect_flows.core import git
from prefect_flows.core.documents import read_text
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.formatting import one_line
from prefect_flows.core.project_folder import SHARED_FILE, require_engine
from prefect_flows.core.settings import Settings

# The files of the shipped example. The file itself goes with them: there is nothing left to adopt.
EXAMPLE = Path("infrastructure/config/example.yaml")
TARGETS = Path("infrastructure/config/targets.json")
LOCK = Path("package-lock.yml")
# Folder of the profiles.yml that setup writes beside one of the project's own.
OWN_PROFILES_DIR = ".local"
REVERT = "git revert HEAD"


@dataclass(frozen=True)
class Choices:
    """What was asked, read and found.

    Attributes:
        mart_folders: names of the folders of marts.
        skipped_stages: stages that runs leave out.
        warehouses: the types of its targets.
        targets: name → target, as `dbt_targets` of the contract has it.
    """

    mart_folders: Sequence[str]
    skipped_stages: Sequence[str]
    warehouses: Sequence[str]
    targets: Mapping[str, Mapping[str, Any]]


def check_repository(settings: Settings) -> None:
    """Check that the commit can be made.

    Raises:
        ConfigurationError: this is no git repository, it has changes, or a project was adopted
            already.
        GitError: git does not know who commits.
    """
    root = settings.project_dir
    require_engine(
        root,
        "adopt",
        "nothing has to be adopted here: name the folder of your dbt project in "
        f'{SHARED_FILE}, such as dbt_dir = "."',
    )
    git.refuse_no_repository(root)
    if not (root / EXAMPLE).exists():
        raise ConfigurationError(
            "A project has been adopted already: the example is gone.",
            where=str(root / EXAMPLE),
            fix="work in dbt/ from now on; or undo the adoption with git revert, then adopt again "
            "(git log -1 --format=%h --diff-filter=D -- infrastructure/config/example.yaml "
            "names the commit)",
        )
    git.refuse_unclean(root)
    profiles = settings.dbt_dir / PROFILES_FILE
    if profiles.exists() and not profiles.read_text(errors="replace").startswith(HEADER):
        raise ConfigurationError(
            f"Setup did not write dbt/{PROFILES_FILE}, and adopt does not replace it.",
            where=str(profiles),
            fix=f"move it away: mv {profiles} {profiles}.own",
        )


def commit(
    settings: Settings, scratch: Path, project: ForeignProject, choices: Choices, message: str
) -> str:
    """Make the commit beside the working folder, then move the branch and the folder to it.

    Args:
        settings: settings of the clone.
        scratch: a scratch folder, whose `dbt` has the project's files and their package-lock.yml.
        project: the adopted project.
        choices: what was asked, read and found.
        message: the commit's message.

    Returns:
        The short name of the commit.

    Raises:
        GitError: git cannot make the commit; nothing was changed.
        ConfigurationError: a file of this clone differs from what adopt can edit.
    """
    root, tree = settings.project_dir, scratch / "worktree"
    # A killed adoption leaves the entry of a folder that is gone.
    git.run(root, "worktree", "prune")
    git.run(root, "worktree", "add", "--quiet", "--detach", str(tree), "HEAD")
    try:
        removed = _list_example(tree)
        git.run(tree, "rm", "-r", "--quiet", "--ignore-unmatch", "--", *removed)
        _add_project(tree, scratch, project)
        _edit_configuration(tree, project, choices)
        _generate_reference(tree)
        git.run(tree, "add", "--all")
        # The project's own files, also those that our .gitignore leaves out.
        git.run(tree, "add", "--force", "--", "dbt")
        git.run(tree, *git.NO_HOOKS, "commit", "--quiet", "--message", message)
        made = git.run(tree, "rev-parse", "--short", "HEAD").strip()
        git.run(root, "merge", "--quiet", "--ff-only", made)
    finally:
        git.run(root, "worktree", "remove", "--force", str(tree))
    _remove_leftovers(root, removed)
    return made


def _list_example(tree: Path) -> list[str]:
    patterns = yaml.safe_load(read_text(tree / EXAMPLE))
    return [*patterns, str(EXAMPLE)]


def _add_project(tree: Path, scratch: Path, project: ForeignProject) -> None:
    project.copy(tree / "dbt")
    if (scratch / "dbt" / LOCK).exists() and not (tree / "dbt" / LOCK).exists():
        shutil.copy2(scratch / "dbt" / LOCK, tree / "dbt" / LOCK)


def _edit_configuration(tree: Path, project: ForeignProject, choices: Choices) -> None:
    skip = list(choices.skipped_stages)
    options = [word for stage in skip for word in ("--skip", stage)]
    file = tree / SHARED_FILE
    shared = tomlkit.parse(file.read_text())
    shared["mart_folders"] = list(choices.mart_folders)
    shared["quickstart_options"] = options
    shared["check_warehouses"] = list(choices.warehouses)
    if Path(PROFILES_FILE) in project.files:
        shared.add(tomlkit.comment("dbt/profiles.yml is the project's own."))
        shared["profiles_dir"] = OWN_PROFILES_DIR
    file.write_text(tomlkit.dumps(shared))
    if choices.targets:
        outputs = {"dbt_targets": {"sensitive": False, "value": choices.targets}}
        (tree / TARGETS).write_text(json.dumps(outputs, indent=2) + "\n")
    (tree / ".sqlfluffignore").write_text(
        "# The adopted project has a style of its own. Remove this file to check it with "
        ".sqlfluff.\ndbt/\n"
    )
    _edit(tree / "prefect.yaml", lambda text: _with_deployments(text, choices.targets, skip))
    _edit(tree / "pyproject.toml", _without_example_source)


def _generate_reference(tree: Path) -> None:
    """Remove the flows of the example's sources from the reference pages."""
    done = subprocess.run(
        [sys.executable, "-m", "infrastructure.cli", "reference"], cwd=tree, check=False,
        env=os.environ | {"MILLRACE_PROJECT_DIR": str(tree)}, stdin=subprocess.DEVNULL,
        capture_output=True, encoding="utf-8", errors="backslashreplace",
    )  # fmt: skip
    if done.returncode != 0:
        raise ConfigurationError(
            f"The reference pages cannot be generated: {one_line(done.stderr)}",
            where="documentation/reference",
            fix="see that this works in the clone: uv run millrace reference",
        )


def _edit(file: Path, change: Callable[[str], str]) -> None:
    file.write_text(change(file.read_text()))


def _with_deployments(text: str, targets: Mapping[str, Any], skip: Sequence[str]) -> str:
    """Add a deployment for each target that has none; all of them skip the stages."""
    deployments = yaml.safe_load(text)["deployments"]
    known = {each["parameters"]["target"] for each in deployments}
    skipped = f", skip: [{', '.join(skip)}]" if skip else ""
    text = re.sub(r"(parameters: \{target: [\w-]+)\}", rf"\1{skipped}}}", text)
    new = "".join(
        f"  - <<: *pipeline\n    name: dbt-{target}\n"
        f"    parameters: {{target: {target}{skipped}}}\n    tags: [dbt, {target}]\n"
        "    work_pool: *on_this_machine\n"
        for target in targets
        if target not in known
    )
    return text.rstrip("\n") + "\n" + new


def _without_example_source(text: str) -> str:
    """Remove the source that quickstart loads from the environment that uv makes."""
    for old, new in (
        ('sources = ["millrace-nyc-flights"]\n', "sources = []\n"),
        ("millrace-nyc-flights = { workspace = true }\n", ""),
    ):
        if old not in text:
            raise ConfigurationError(
                f"pyproject.toml has no line `{old.strip()}`, which adopt would remove.",
                where="pyproject.toml",
                fix="put the line back (git log -p pyproject.toml); adopt removes it",
            )
        text = text.replace(old, new)
    return text


def _remove_leftovers(root: Path, removed: Sequence[str]) -> None:
    """Remove the bytecode of removed sources: its folders would count as sources without files."""
    for pattern in removed:
        for folder in root.glob(pattern):
            if folder.is_dir() and not any(
                path.is_file() and path.suffix != ".pyc" for path in folder.rglob("*")
            ):
                shutil.rmtree(folder)
