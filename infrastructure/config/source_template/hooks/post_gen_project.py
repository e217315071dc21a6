"""Moves models and tests to where the project keeps them, and says what comes next."""

from __future__ import annotations

import sys
from pathlib import Path

SOURCE, DASHED, KIND = (
    "{{ cookiecutter.__source }}",
    "{{ cookiecutter.__dashed }}",
    "{{ cookiecutter.__kind }}",
)
NEEDS = {
    "rest_api": f"""\
  edit prefect_flows/sources/{SOURCE}/source.py   the API's address, its fields
  uv run millrace secret {DASHED}-token-dev   where the API wants a token
  uv run millrace ingest {SOURCE} --target dev""",
    "database": f"""\
  edit prefect_flows/sources/{SOURCE}/source.py   the tables, their keys
  uv run millrace secret {DASHED}-url-dev   postgresql://user:password@host/db
  uv run millrace ingest {SOURCE} --target dev""",
    "files": f"""\
  edit prefect_flows/sources/{SOURCE}/source.py   the columns of a file
  edit prefect_flows/sources/{SOURCE}/prefect.yaml   the folder of each target
  uv run millrace ingest {SOURCE} --target dev""",
}


def main() -> None:
    """Move what is not the flow's own, and print the next commands."""
    here = Path.cwd()
    project = here.parents[2]
    for made, place in (
        (here / "dbt", project / "dbt" / "models" / "staging" / SOURCE),
        (
            here / "tests" / f"test_{SOURCE}.py",
            project / "tests" / "prefect_flows" / "sources" / f"test_{SOURCE}.py",
        ),
    ):
        place.parent.mkdir(parents=True, exist_ok=True)
        made.rename(place)
    (here / "tests").rmdir()
    sys.stdout.write(
        f"""\
Made: prefect_flows/sources/{SOURCE}
      dbt/models/staging/{SOURCE}
      tests/prefect_flows/sources/test_{SOURCE}.py
Next:
  uv sync --all-packages
  uv run millrace check sources --source {SOURCE}
  uv run pytest -n 0 tests/prefect_flows/sources/test_{SOURCE}.py
  uv run millrace reference
{NEEDS[KIND]}
  cd dbt && uv run dbt build -s source:{SOURCE}+
documentation/sources.md says the rest.
"""
    )


if __name__ == "__main__":
    main()
