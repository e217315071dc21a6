"""Refuses names that no source may have, before a file is written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

OWNER, NAME, SOURCE = (
    "{{ cookiecutter.owner }}",
    "{{ cookiecutter.name }}",
    "{{ cookiecutter.__source }}",
)
# That of infrastructure/ci/check_sources/layout.py, a half at a time.
PART = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
LONGEST = 40
RULE = "Use lowercase letters, digits and single underscores; the owner begins with a letter."


def faults(project: Path) -> list[str]:
    """What is wrong with the names, and what is in the way."""
    found = [
        f"The {what} {value!r} cannot be part of a source's name. {RULE}"
        for what, value in (("owner", OWNER), ("name", NAME))
        if not PART.fullmatch(value) or (what == "owner" and value[0].isdigit())
    ]
    if len(SOURCE) > LONGEST:
        found.append(f"The name {SOURCE} has {len(SOURCE)} characters; use {LONGEST} at most.")
    if not (project / "dbt" / "dbt_project.yml").is_file():
        found.append(
            f"{project} is not a Millrace project. In the project's folder: uvx cookiecutter "
            "infrastructure/config/source_template --output-dir prefect_flows/sources"
        )
    return found + [
        f"{taken} is there already. Remove it, or choose another name."
        for taken in (
            project / "dbt" / "models" / "staging" / SOURCE,
            project / "tests" / "prefect_flows" / "sources" / f"test_{SOURCE}.py",
        )
        if taken.exists()
    ]


if __name__ == "__main__":
    wrong = faults(Path.cwd().parents[2])
    if wrong:
        sys.exit("\n".join(wrong))
