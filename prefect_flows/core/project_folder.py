"""Finds the folder of the project: what is a team's own, apart from the engine's code."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from prefect_flows.core.errors import ConfigurationError

# Settings that all clones of the project share; the file marks the project's folder.
SHARED_FILE = "millrace.toml"
VARIABLE = "MILLRACE_PROJECT_DIR"
# Parent of the engine's packages: a clone, or the `site-packages` of an installed wheel.
ENGINE_DIR = Path(__file__).resolve().parents[2]


def find_project_dir() -> Path:
    """Return the folder of the project.

    The first of these: `MILLRACE_PROJECT_DIR`; the working directory, or its nearest parent, that
    has a `millrace.toml`; the clone that this code is in.

    Raises:
        ConfigurationError: there is no such folder.
    """
    if given := os.environ.get(VARIABLE):
        return Path(given).absolute()
    working = Path.cwd()
    for folder in (working, *working.parents):
        # False also in a folder that this user cannot read, such as root's.
        if os.path.isfile(folder / SHARED_FILE):  # noqa: PTH113
            return folder
    if _is_engine_cloned():
        return ENGINE_DIR
    raise ConfigurationError(
        f"This is not the folder of a project: neither it nor a folder above has a {SHARED_FILE}.",
        where=str(working),
        fix=f"cd to the project; or name it: export {VARIABLE}=FOLDER; or begin one here: touch "
        f"{SHARED_FILE} (documentation/how_to/install_the_engine.md)",
    )


def _is_engine_cloned() -> bool:
    """Return whether this code is in a clone; the `site-packages` of a wheel have no such file."""
    return (ENGINE_DIR / "pyproject.toml").is_file()


def get_install_command(extra: str) -> str:
    """Return the command that installs packages of one of the engine's extras."""
    if _is_engine_cloned():
        return f"uv sync --inexact --extra {extra}"
    return f"uv add 'millrace[{extra}]'"


def has_engine(project_dir: Path) -> bool:
    """Return whether the engine's code is in the project's folder, as in a clone.

    If not, the engine is an installed package.
    """
    return (project_dir / "prefect_flows" / "pipeline.py").is_file()


def require_engine(project_dir: Path, command: str, fix: str) -> None:
    """Refuse a command that works on the engine's own files if the project does not have them.

    Args:
        project_dir: folder of the project.
        command: the command, without `millrace`.
        fix: what to do without these files.

    Raises:
        ConfigurationError: the engine is an installed package.
    """
    if not has_engine(project_dir):
        raise ConfigurationError(
            f"`millrace {command}` works in a clone of Millrace only: it uses files that are not "
            "in the installed package.",
            where=str(project_dir),
            fix=fix,
        )


def shorten_path(path: Path, project_dir: Path) -> Path:
    """Return a path as people type it in the project's folder: relative, if it is in there."""
    return path.relative_to(project_dir) if path.is_relative_to(project_dir) else path


def enter_folder(folder: Path, project_dir: Path) -> str:
    """Return the beginning of a shell command that runs in a folder: `cd dbt && `.

    It is empty for the project's folder, where people type commands.
    """
    short = shorten_path(folder, project_dir)
    return "" if short == Path() else f"cd {shlex.quote(str(short))} && "
