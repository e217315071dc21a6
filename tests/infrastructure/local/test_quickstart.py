"""The first command of the README: from a fresh clone to tested tables."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.project import Quickstart

pytestmark = pytest.mark.models


def test_it_shows_every_step_and_ends_with_a_summary(quickstart: Quickstart) -> None:
    said = quickstart.done.stdout
    for command in (
        "$ uv run millrace up",
        "$ uv run millrace setup",
        "$ uv run millrace run --target dev --source nyc__flights",
    ):
        assert command in said
    for mart, rows in {
        "fct_flights": "336,776",
        "fct_weather_hourly": "26,115",
        "dim_airlines": "16",
    }.items():
        assert re.search(rf"{mart}\W+{rows}\W", said), f"rows of {mart} are not said"
    assert re.search(r"dbt-test\W+\d+ pass\W", said)
    assert re.search(r"whole run\W+\d+\.\d", said)
    assert "What next:" in said
    for page in ("uv run millrace report serve", "http://127.0.0.1:", "documentation/tutorial.md"):
        assert f"\n  {page}" in said


def test_the_link_leads_to_the_flow_run(quickstart: Quickstart) -> None:
    link = re.search(
        r"Flow run: (http://127\.0\.0\.1:\d+)/runs/flow-run/(\S+)", quickstart.done.stdout
    )
    assert link, "the link to the flow run is not said"
    project = quickstart.project
    assert project.api_url == f"{link[1]}/api"
    run = project.http.get(f"/flow_runs/{link[2]}").json()
    assert run["state"]["type"] == "COMPLETED"
    assert run["parameters"]["target"] == "dev"


def test_everything_it_makes_lies_in_ignored_places(quickstart: Quickstart) -> None:
    project = quickstart.project
    made = {path.name for path in project.folder.iterdir()}
    assert {".local", "prefect.toml"} <= made
    home = project.folder.parent / "home"
    assert not list(home.iterdir()), "something was written to the home folder"


@pytest.mark.nightly
@pytest.mark.operations
def test_of_two_more_one_changes_nothing_and_one_is_refused(
    quickstart: Quickstart,
) -> None:
    """GIVEN a quickstart that is done WHEN two more begin THEN one runs again, one is refused."""
    project = quickstart.project
    sums = "select sum(hashtext(f::text)) from raw_nyc__flights.flights f"
    before = project.query(sums)
    server = project.server

    def start(_: int) -> subprocess.CompletedProcess[str]:
        return project.run("-m", "infrastructure.cli", "quickstart")

    with ThreadPoolExecutor(2) as both:
        first, second = sorted(both.map(start, range(2)), key=lambda done: done.returncode)

    assert first.returncode == 0, first.stdout + first.stderr
    assert "0 created, 0 updated, 4 unchanged" in first.stdout
    assert re.search(r"load-nyc__flights\W+0 new rows", first.stdout)
    assert project.query(sums) == before
    assert project.server == server
    assert second.returncode == 2
    said = r"ServerError: Another quickstart is at work \((process \d+|it has just begun.*)\)\."
    assert re.search(said, second.stderr), second.stderr
    assert "fix:   wait until it has ended" in second.stderr
    assert second.stdout == ""


def test_a_metric_is_answered(quickstart: Quickstart) -> None:
    project = quickstart.project
    # What `mf` reads is written by whatever dbt command comes first.
    done = project.dbt("parse", "--target", "dev")
    assert done.returncode == 0, done.stdout + done.stderr
    done = project.run(
        "-m", "dbt_metricflow.cli.main",
        "query", "--metrics", "on_time_rate", "--group-by", "metric_time__year",
        cwd=project.folder / "dbt",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    ((expected,),) = project.query("select avg(is_on_time::int) from dev_marts.fct_flights")
    answered = re.search(r"2013-01-01\S*\s+([0-9.]+)", done.stdout)
    assert answered, done.stdout
    assert abs(float(answered[1]) - float(expected)) < 0.001
