"""`PrefectDbtRunner` in a flow, as its documentation shows it. Settings come from `DBT_…`."""

from __future__ import annotations

from prefect import flow
from prefect_dbt import PrefectDbtRunner, PrefectDbtSettings


@flow(name="prefect-dbt-runner")
def build() -> None:
    """Build everything."""
    PrefectDbtRunner(settings=PrefectDbtSettings()).invoke(["build"])


if __name__ == "__main__":
    build()
