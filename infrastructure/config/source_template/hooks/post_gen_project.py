"""Moves models and tests to where the project keeps them, and says what comes next."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

SOURCE, DASHED, KIND = (
    "{{ cookiecutter.__source }}",
    "{{ cookiecutter.__dashed }}",
    "{{ cookiecutter.__kind }}",
)
SHARED = "millrace.toml"
NEEDS = {
    "rest_api": """\
  edit {folder}/source.py   the API's address, its fields
  uv run millrace secret {dashed}-token-dev   where the API wants a token
""",
    "database": """\
  edit {folder}/source.py   the tables, their keys
  uv run millrace secret {dashed}-url-dev   postgresql://user:password@host/db
""",
    "files": """\
  edit {folder}/source.py   the columns of a file
  edit {folder}/prefect.yaml   the folder of each target
""",
}


def find_project() -> Path:
    """The nearest folder above with a millrace.toml; else that of a clone."""
    here = Path.cwd()
    return next((each for each in here.parents if (each / SHARED).is_file()), here.parents[2])


def find_dbt(project: Path) -> Path:
    """The folder of the dbt project, from millrace.toml."""
    file = project / SHARED
    given = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return project / given.get("dbt_dir", "dbt")


def main() -> None:
    """Move what is not the flow's own, and print the next commands."""
    here, project = Path.cwd(), find_project()
    dbt = find_dbt(project)
    models = dbt / "models" / "staging" / SOURCE
    models.parent.mkdir(parents=True, exist_ok=True)
    (here / "dbt").rename(models)
    made = [here, models]
    test = here / "tests" / f"test_{SOURCE}.py"
    # The test uses the engine's own fixtures, and the two files a clone's workspace and image.
    is_clone = (project / "prefect_flows" / "pipeline.py").is_file()
    if is_clone:
        place = project / "tests" / "prefect_flows" / "sources" / test.name
        place.parent.mkdir(parents=True, exist_ok=True)
        test.rename(place)
        made.append(place)
    else:
        for file in (test, here / "pyproject.toml", here / "Dockerfile"):
            file.unlink()
    (here / "tests").rmdir()
    made = [file.relative_to(project) for file in made]
    needs = NEEDS[KIND].format(folder=made[0], dashed=DASHED)
    enter = "" if dbt == project else f"cd {dbt.relative_to(project)} && "
    steps = [
        *(["  uv sync --all-packages"] if is_clone else []),
        f"  uv run millrace check sources --source {SOURCE}",
        *([f"  uv run pytest -n 0 {made[2]}", "  uv run millrace reference"] if is_clone else []),
    ]
    sys.stdout.write(
        f"Made: {made[0]}\n"
        + "".join(f"      {file}\n" for file in made[1:])
        + "Next:\n"
        + "".join(f"{step}\n" for step in steps)
        + f"""\
{needs}  uv run millrace ingest {SOURCE} --target dev
  {enter}uv run dbt build -s source:{SOURCE}+
documentation/sources.md says the rest.
"""
    )


if __name__ == "__main__":
    main()
