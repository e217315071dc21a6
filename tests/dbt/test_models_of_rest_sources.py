"""The models of github__trending and youtube__channels, on what both sources load of two days."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from prefect_flows.core.environment import set_variables
from prefect_flows.core.profiles import Profile
from prefect_flows.ingest.source_load import ingest
from tests.support import fork_server
from tests.support.embedded_postgres import TARGET, warehouse
from tests.support.project import REPOSITORY
from tests.support.rest_apis import GitHub, YouTube

if TYPE_CHECKING:
    from tests.support.bigquery.emulator import BigQuery

# dlt asks for a faster way to read, which the project does without; in a process of its own nobody
# hears of it.
pytestmark = pytest.mark.filterwarnings("ignore:Cannot create BigQuery Storage client")

SOURCES = ["github__trending", "youtube__channels"]
MODELS = {
    "stg_github__trending__repositories", "stg_github__trending__star_history",
    "stg_youtube__channels__channels", "stg_youtube__channels__channel_statistics",
    "stg_youtube__channels__videos", "stg_youtube__channels__video_statistics",
    "agg_trending_repositories", "agg_channel_performance_daily",
}  # fmt: skip
WHEELS, ANVIL = "UC" + "a" * 22, "UC" + "b" * 22
TODAY = datetime.now(UTC).date()
YESTERDAY = TODAY - timedelta(days=1)
Dbt = Callable[..., subprocess.CompletedProcess[str]]


@dataclass
class Ground:
    """A warehouse with a target, and what a process needs in its environment to use it."""

    profile: Profile
    query: Callable[[str], list[tuple[Any, ...]]]
    environment: dict[str, str]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("postgres", marks=pytest.mark.models),
        pytest.param("bigquery", marks=pytest.mark.nightly),
    ],
)
def ground(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    if request.param == "postgres":
        with warehouse(tmp_path_factory.mktemp("rest") / "local") as postgres:
            yield Ground(postgres.profile, postgres.query, {})
        return
    bigquery: BigQuery = request.getfixturevalue("bigquery")
    output = bigquery.target(TARGET) | {"method": "oauth", "schema": TARGET, "job_retries": 0}
    client = bigquery.client()
    yield Ground(
        Profile.from_output("millrace", TARGET, {k: output[k] for k in output if k != "dataset"}),
        lambda sql: [row.values() for row in client.query(sql).result()],
        bigquery.environment,
    )
    client.close()


@pytest.fixture(scope="module")
def loaded(ground: Ground) -> None:
    """What both sources load yesterday and today, with numbers that changed meanwhile."""
    github, youtube = GitHub(), YouTube()

    def load() -> None:
        # The state knows no yesterday: whole, for the second load to be one of another day.
        whole = {"full_refresh": True}
        with set_variables(ground.environment):
            ingest("github__trending", ground.profile, api_url=github.url, **whole)
            given = {"channels": [WHEELS, ANVIL], "api_key": "made-up", "api_url": youtube.url}
            ingest("youtube__channels", ground.profile, **given, **whole)

    with github.running(), youtube.running():
        load()
        for table in (
            "raw_github__trending.star_history",
            "raw_youtube__channels.channel_statistics",
            "raw_youtube__channels.video_statistics",
        ):
            ground.query(f"update {table} set observed_date = '{YESTERDAY}' where true")
        github.repositories[0]["stargazers_count"] += 90
        github.repositories[2]["language"] = None
        github.repositories.append(
            github.repositories[1] | {"id": 77, "full_name": "new/one", "stargazers_count": 4300}
        )
        youtube.channels[0]["statistics"] |= {"subscriberCount": "121000"}
        youtube.channels[1]["statistics"] |= {"viewCount": "4500"}
        youtube.videos[0]["statistics"] |= {"likeCount": "450"}
        load()


def dbt_of(profile: Profile, folder: Path, environment: dict[str, str]) -> Dbt:
    """Dbt as a person calls it, to whom every warning is an error."""
    document = {profile.name: {"target": TARGET, "outputs": {TARGET: profile.credentials()}}}
    (folder / "profiles.yml").write_text(yaml.safe_dump(document))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DBT_")}

    def run(
        *arguments: str, off: list[str], strict: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return fork_server.run(
            [
                "-m", "dbt.cli.main", "--no-use-colors",
                *(["--warn-error"] if strict else []),
                *arguments, "--project-dir", str(REPOSITORY / "dbt"),
                "--profiles-dir", str(folder), "--target-path", str(folder / "target"),
                "--log-path", str(folder / "logs"), "--vars", json.dumps({"disabled_sources": off}),
            ],
            cwd=folder,
            env=inherited | environment,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def dbt(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Dbt:
    return dbt_of(ground.profile, tmp_path_factory.mktemp("dbt"), ground.environment)


@pytest.mark.models
@pytest.mark.parametrize(
    "off",
    [
        SOURCES,
        *(pytest.param(off, marks=pytest.mark.nightly) for off in (SOURCES[:1], SOURCES[1:], [])),
    ],
    ids=str,
)
def test_the_project_parses_without_a_warning_with_any_source_disabled(
    off: list[str], tmp_path: Path
) -> None:
    nobody = {
        "type": "postgres", "host": "127.0.0.1", "port": 9, "user": "dbt", "dbname": "nowhere",
        "password": "", "schema": TARGET, "threads": 1,
    }  # fmt: skip
    dbt = dbt_of(Profile.from_output("millrace", TARGET, nobody), tmp_path, {})
    done = dbt("list", "--resource-type", "model", "--output", "name", off=off)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = set(done.stdout.split())
    found = {name for name in MODELS if name in listed}
    words = {
        "github__trending": ("github", "trending"),
        "youtube__channels": ("youtube", "channel"),
    }
    expected = {
        name for name in MODELS if not any(word in name for source in off for word in words[source])
    }
    assert found == expected
    assert "fct_flights" in listed


def test_they_are_off_as_shipped() -> None:
    project = yaml.safe_load((REPOSITORY / "dbt" / "dbt_project.yml").read_text())
    assert set(SOURCES) <= set(project["vars"]["disabled_sources"])


@pytest.fixture(scope="module")
def built(loaded: None, dbt: Dbt) -> str:
    """What `dbt build` says of the models, their data tests and unit tests."""
    selected = [f"source:{source}+" for source in SOURCES]
    done = dbt("build", "--select", *selected, off=[])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_models_data_tests_and_unit_tests_pass(built: str) -> None:
    assert "WARN=0 ERROR=0 SKIP=0" in built
    assert all(f"{model} " in built for model in MODELS)
    assert "unit_test agg_trending_repositories::stars_are_counted_from" in built.replace("  ", " ")
    assert "unit_test agg_channel_performance_daily::gains_are_counted" in built.replace("  ", " ")


def test_freshness_reads_the_loads(built: str, dbt: Dbt) -> None:
    # dbt-bigquery asks for metadata first, and warns of it, though each source has a query.
    selected = [f"source:{source}" for source in SOURCES]
    done = dbt("source", "freshness", "--select", *selected, off=[], strict=False)
    assert done.returncode == 0, done.stdout
    assert "PASS freshness of github__trending.repositories" in done.stdout
    assert "PASS freshness of youtube__channels.videos" in done.stdout


def test_trending_repositories_row_by_row(built: str, ground: Ground) -> None:
    assert ground.query(
        "select full_name, main_language, stars, gained_stars, observed_days, rank_in_language, "
        "gained_stars_per_day, first_observed_date, last_observed_date "
        f"from {TARGET}_marts.agg_trending_repositories order by stars desc, full_name"
    ) == [
        ("millwright/overshot", "Python", 4300, 90, 2, 1, 90.0, YESTERDAY, TODAY),
        ("new/one", "Python", 4300, 0, 1, 1, None, TODAY, TODAY),
        ("a-smith/anvil", "Python", 980, 0, 2, 3, 0.0, YESTERDAY, TODAY),
        # Without a language it was not found any more.
        ("b-miller/flume", "Python", 455, 0, 1, 1, None, YESTERDAY, YESTERDAY),
    ]


def test_channel_performance_row_by_row(built: str, ground: Ground) -> None:
    assert ground.query(
        "select channel_id, channel_title, observed_date, view_count, subscriber_count, "
        "video_count, observed_video_count, like_count, comment_count, gained_views, "
        "gained_subscribers, "
        "days_since_previous, is_subscriber_count_hidden "
        f"from {TARGET}_marts.agg_channel_performance_daily order by 1, 3"
    ) == [
        (WHEELS, "Water Wheels Weekly", YESTERDAY, 9223372036854775000, 120000, 3, 3, 403, 12,
         None, None, None, False),
        (WHEELS, "Water Wheels Weekly", TODAY, 9223372036854775000, 121000, 3, 3, 453, 12, 0,
         1000, 1, False),
        (ANVIL, "Quiet Anvil", YESTERDAY, 4521, None, 1, 1, 45, 0, None, None, None, True),
        (ANVIL, "Quiet Anvil", TODAY, 4500, None, 1, 1, 45, 0, -21, None, 1, True),
    ]  # fmt: skip
