"""Refuses names that no source may have, before a file is written."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

OWNER, NAME, SOURCE = (
    "{{ cookiecutter.owner }}",
    "{{ cookiecutter.name }}",
    "{{ cookiecutter.__source }}",
)
# That of infrastructure/ci/check_sources/layout.py, a half at a time.
PART = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
LONGEST = 40
SHARED = "millrace.toml"
RULE = "Use lowercase letters, digits and single underscores; the owner begins with a letter."


def find_project() -> Path:
    """The nearest folder above with a millrace.toml; else that of a clone."""
    here = Path.cwd()
    return next((each for each in here.parents if (each / SHARED).is_file()), here.parents[2])


def find_dbt(project: Path) -> Path:
    """The folder of the dbt project, from millrace.toml."""
    file = project / SHARED
    given = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return project / given.get("dbt_dir", "dbt")


def faults(project: Path, dbt: Path) -> list[str]:
    """What is wrong with the names, and what is in the way."""
    found = [
        f"The {what} {value!r} cannot be part of a source's name. {RULE}"
        for what, value in (("owner", OWNER), ("name", NAME))
        if not PART.fullmatch(value) or (what == "owner" and value[0].isdigit())
    ]
    if len(SOURCE) > LONGEST:
        found.append(f"The name {SOURCE} has {len(SOURCE)} characters; use {LONGEST} at most.")
    if not (dbt / "dbt_project.yml").is_file():
        found.append(
            f"There is no dbt_project.yml in {dbt}: {project} is not a Millrace project. In the "
            "project's folder: uvx cookiecutter infrastructure/config/source_template "
            "--output-dir prefect_flows/sources; with the installed engine, see "
            "documentation/how_to/install_the_engine.md"
        )
    return found + [
        f"{taken} is there already. Remove it, or choose another name."
        for taken in (
            dbt / "models" / "staging" / SOURCE,
            project / "tests" / "prefect_flows" / "sources" / f"test_{SOURCE}.py",
        )
        if taken.exists()
    ]


if __name__ == "__main__":
    found = find_project()
    wrong = faults(found, find_dbt(found))
    if wrong:
        sys.exit("\n".join(wrong))
