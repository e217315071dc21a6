"""What lands in a real Postgres from a server that answers as GitHub's search does."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_flows.core.date_window import DateWindow
from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.ingest.source_load import LoadRecord, ingest
from prefect_flows.sources.github__trending.source import Search
from tests.support.embedded_postgres import Warehouse, warehouse
from tests.support.rest_apis import Answer, GitHub

SOURCE = "github__trending"
RAW = "raw_github__trending"
TOKEN = "ghp_madeUpToken"
BIG, ANVIL, FLUME = 9007199254740993, 502, 503
TODAY = datetime.now(UTC).date()
Load = Callable[..., LoadRecord]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with warehouse(tmp_path_factory.mktemp("github") / "local") as postgres:
        yield postgres


@pytest.fixture
def api() -> Iterator[GitHub]:
    api = GitHub()
    with api.running():
        yield api


@pytest.fixture
def load(postgres: Warehouse, api: GitHub) -> Load:
    postgres.empty(SOURCE)
    return lambda **given: ingest(SOURCE, postgres.profile, api_url=api.url, **given)


def stars(postgres: Warehouse) -> list[tuple[Any, ...]]:
    return postgres.query(
        f"select repo_id, observed_date, stargazers_count from {RAW}.star_history order by 1, 2"
    )


def day(ago: int) -> date:
    return TODAY - timedelta(days=ago)


def at(ago: int, clock: str) -> datetime:
    return datetime.fromisoformat(f"{day(ago)}T{clock}+00:00")


def test_repositories_land_row_by_row(postgres: Warehouse, api: GitHub, load: Load) -> None:
    done = load(token=TOKEN)

    assert done.rows == {"repositories": 3, "star_history": 3}
    assert postgres.query(
        "select repo_id, full_name, name, owner_login, owner_type, description, homepage, "
        "html_url, language, license_spdx_id, default_branch, topics, stargazers_count, "
        "forks_count, open_issues_count, size_kilobytes, archived, created_at, updated_at, "
        f"pushed_at from {RAW}.repositories order by repo_id"
    ) == [
        (ANVIL, "a-smith/anvil", "anvil", "a-smith", "User", None, None,
         "https://github.com/a-smith/anvil", "Python", "APACHE-2.0", "main", "", 980, 98, 19,
         1502, False, at(3, "23:59:59"), at(1, "12:00:00"), at(1, "12:00:00")),
        (FLUME, "b-miller/flume", "flume", "b-miller", "User",
         "Channels for water\nin two lines", None, "https://github.com/b-miller/flume", "Python",
         None, "main", "", 455, 45, 9, 1503, True, at(6, "00:00:00"), at(6, "00:00:01"),
         at(6, "00:00:01")),
        (BIG, "millwright/overshot", "overshot", "millwright", "Organization",
         "Water wheels in pure Python, \u201cfast\u201d & small \U0001f3a1",
         "https://overshot.example", "https://github.com/millwright/overshot", "Python", "MIT",
         "main", "wheels,water", 4210, 421, 84, BIG + 1000, False, at(1, "08:00:00"),
         at(0, "01:02:03"), at(0, "01:02:03")),
    ]  # fmt: skip
    assert stars(postgres) == [(ANVIL, TODAY, 980), (FLUME, TODAY, 455), (BIG, TODAY, 4210)]
    assert postgres.query(
        f"select count(*) from {RAW}.repositories join {RAW}._dlt_loads "
        "on _dlt_load_id = load_id where now() - _loaded_at < interval '1 minute'"
    ) == [(3,)]
    (asked,) = api.asked
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert asked.query["q"].startswith(f'language:"Python" created:{day(7)}T00:00:00Z..')
    assert asked.query["q"].endswith(" stars:>=100")
    assert (asked.query["sort"], asked.query["order"]) == ("stars", "desc")


def test_a_second_load_writes_what_is_new_or_changed(
    postgres: Warehouse, api: GitHub, load: Load
) -> None:
    load()
    assert load().rows == {"repositories": 0, "star_history": 0}
    # WHEN one gains stars, one is described anew, and one is made
    api.repositories[0]["stargazers_count"] = 4300
    api.repositories[1]["description"] = "An anvil"
    api.repositories.append(api.repositories[1] | {"id": 504, "full_name": "a-smith/tongs"})
    # THEN these are written, and no other
    assert load().rows == {"repositories": 3, "star_history": 2}
    assert stars(postgres) == [
        (ANVIL, TODAY, 980), (FLUME, TODAY, 455), (504, TODAY, 980), (BIG, TODAY, 4300),
    ]  # fmt: skip
    assert load(full_refresh=True).rows == {"repositories": 4, "star_history": 4}
    assert len(stars(postgres)) == 4


@pytest.mark.sources
def test_stars_are_kept_for_each_day(postgres: Warehouse, api: GitHub, load: Load) -> None:
    load()
    # The day passes in the warehouse: what was seen today is from yesterday.
    postgres.query(f"update {RAW}.star_history set observed_date = observed_date - 1")
    for repository in api.repositories:
        repository["stargazers_count"] += 5
    load()
    assert stars(postgres) == [
        (ANVIL, day(1), 980), (ANVIL, TODAY, 985), (FLUME, day(1), 455), (FLUME, TODAY, 460),
        (BIG, day(1), 4210), (BIG, TODAY, 4215),
    ]  # fmt: skip


def test_repositories_of_the_days_of_a_backfill(
    postgres: Warehouse, api: GitHub, load: Load
) -> None:
    load()
    for repository in api.repositories:
        repository["description"] = "changed"
    done = load(window=DateWindow(day(6), day(3)))
    assert done.rows == {"repositories": 2, "star_history": 0}
    assert f"created:{day(6)}T00:00:00Z..{day(3)}T23:59:59Z" in api.asked[-1].query["q"]
    changed = f"select repo_id from {RAW}.repositories where description = 'changed' order by 1"
    assert postgres.query(changed) == [(ANVIL,), (FLUME,)]
    # What the backfill did not look at is still known to the next load.
    assert load().rows == {"repositories": 1, "star_history": 0}


@pytest.mark.sources
def test_what_leaves_the_days_stays_in_the_warehouse(
    postgres: Warehouse, api: GitHub, load: Load
) -> None:
    load()
    assert load(days=2).rows == {"repositories": 0, "star_history": 0}
    assert len(stars(postgres)) == 3
    assert load(language="Rust").rows == {"repositories": 0, "star_history": 0}
    # What came back to the search is written again, since nobody looked at it meanwhile.
    assert load().rows == {"repositories": 3, "star_history": 3}
    assert len(stars(postgres)) == 3


@pytest.mark.sources
def test_a_search_without_results_makes_the_tables(
    postgres: Warehouse, api: GitHub, load: Load
) -> None:
    api.repositories.clear()
    assert load().rows == {"repositories": 0, "star_history": 0}
    assert stars(postgres) == []
    assert postgres.query(f"select count(*) from {RAW}.repositories") == [(0,)]


def test_pages_are_turned_and_a_repository_that_comes_twice_is_one(
    postgres: Warehouse, api: GitHub, load: Load
) -> None:
    # GIVEN 253 repositories, of which one moves from the end of page 1 to the top of page 2
    api.copies(250)
    first = api.answer
    pages: list[str] = []

    def moving(asked):
        answer = first(asked)
        page = asked.query.get("page", "1")
        if pages.count(page) == 0 and page == "2":
            answer.body["items"][0] = moved | {"stargazers_count": 1}
        if page == "1":
            moved.update(answer.body["items"][-1])
        pages.append(page)
        return answer

    moved: dict[str, Any] = {}
    api.answer = moving  # type: ignore[method-assign]
    # WHEN it is loaded
    done = load()
    # THEN the one that was pushed out is asked for once more, and none is lost or doubled
    assert pages == ["1", "2", "3", "1", "2", "3"]
    assert done.rows == {"repositories": 253, "star_history": 253}
    assert done.rejected == []
    assert postgres.query(f"select count(distinct repo_id) from {RAW}.repositories") == [(253,)]
    assert (moved["id"], TODAY, moved["stargazers_count"]) in stars(postgres)


def test_more_than_a_thousand_results_are_split_by_time(
    postgres: Warehouse, api: GitHub, load: Load
) -> None:
    for ago in range(5):
        number = len(api.repositories)
        api.copies(450, created_at=f"{day(ago + 1)}T10:00:00Z")
        for made in api.repositories[number:]:
            made["id"] += 1000 * (ago + 1)
    done = load()
    assert done.rows["repositories"] == 5 * 450 + 3
    assert done.rejected == []
    spans = {asked.query["q"] for asked in api.asked}
    assert len(spans) > 4
    assert postgres.query(f"select count(*) from {RAW}.star_history") == [(5 * 450 + 3,)]


@pytest.mark.parametrize("seconds", [60, 61, 86_399])
def test_the_halves_of_a_search_meet_without_a_gap(seconds: int) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    whole = Search("Python", 100, begin, begin + timedelta(seconds=seconds))
    first, second = whole.split()
    assert (first.begin, second.end) == (whole.begin, whole.end)
    assert second.begin - first.end == timedelta(seconds=1)


def test_what_github_does_not_give_is_reported(api: GitHub, load: Load) -> None:
    # GIVEN 1,200 repositories made within one second, which no span of time splits
    api.copies(1200, created_at=f"{day(2)}T10:00:00Z")
    done = load()
    assert done.rows["repositories"] == 1003
    (rejected,) = done.rejected
    assert rejected.table == "repositories"
    assert rejected.why == "GitHub finds 1,200 and gives 1,000"
    assert rejected.rows == 200
    assert f"created:{day(2)}T" in rejected.where


@pytest.mark.sources
def test_results_that_github_calls_incomplete_are_asked_for_again_and_reported(
    api: GitHub, load: Load
) -> None:
    api.incomplete = True
    done = load()
    assert done.rows["repositories"] == 3
    assert len(api.asked) == 2
    (rejected,) = done.rejected
    assert rejected.why == "GitHub finds 3 and gives 3; it says that it ran out of time"
    assert rejected.rows == 0


@pytest.mark.sources
def test_rate_limits_and_faults_on_the_way_lose_nothing(
    api: GitHub, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    limited = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()))}
    api.troubles += [
        Answer({"message": "API rate limit exceeded for 10.0.0.1."}, 403, limited),
        Answer({"message": "secondary"}, 429, {"Retry-After": "1"}),
        Answer({"message": "Server Error"}, 500),
        Answer({"total_count": 3, "items": []}, cut=9),
    ]
    with caplog.at_level(logging.INFO):
        assert load(token=TOKEN).rows["repositories"] == 3
    assert "403 Forbidden: API rate limit exceeded for 10.0.0.1.; retrying at" in caplog.text
    assert "500 Internal Server Error: Server Error; try 2 of 4 in 1 s" in caplog.text
    assert TOKEN not in caplog.text


def test_a_rate_limit_of_an_hour_ends_the_load_and_says_until_when(
    postgres: Warehouse, api: GitHub, load: Load
) -> None:
    load()
    before = postgres.query(f"select * from {RAW}.repositories order by 1")
    reset = int(time.time()) + 3000
    api.troubles.append(
        Answer(
            {"message": "API rate limit exceeded"},
            403,
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset)},
        )
    )
    with pytest.raises(IngestionError) as error:
        load(token=TOKEN)
    until = datetime.fromtimestamp(reset + 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert f"rate limit is reached (403 Forbidden: API rate limit exceeded), until {until}" in str(
        error.value
    )
    assert error.value.retryable
    assert TOKEN not in str(error.value)
    assert postgres.query(f"select * from {RAW}.repositories order by 1") == before


def test_a_token_that_github_refuses_is_reported_with_the_command(api: GitHub, load: Load) -> None:
    api.troubles.append(Answer({"message": "Bad credentials", "status": "401"}, 401))
    with pytest.raises(IngestionError) as error:
        load(token=TOKEN)
    assert "The API refuses the call: 401 Unauthorized: Bad credentials\n" in str(error.value)
    assert "millrace secret github-trending-token-<target>" in str(error.value)
    assert not error.value.retryable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("stargazers_count"),
         "Table 'repositories': the API's answer has no field 'stargazers_count' any more, which "
         "column 'stargazers_count' needs"),
        (lambda r: r.pop("id"), "no field 'id' any more"),
        (lambda r: r.update(stargazers_count="many"),
         "Table 'repositories': field 'stargazers_count' does not read as int64: \"many\"."),
        (lambda r: r.update(stargazers_count=12.5), "does not read as int64: 12.5."),
        (lambda r: r.update(stargazers_count=2**63), "does not read as int64: 9223372036854775808"),
        (lambda r: r.update(archived="no"), "field 'archived' does not read as bool: \"no\"."),
        (lambda r: r.update(created_at=None), "no field 'created_at' any more"),
        (lambda r: r.update(updated_at="yesterday"),
         "field 'updated_at' does not read as timestamp[us, tz=UTC]: \"yesterday\"."),
        (lambda r: r.update(description={"en": "x"}), "field 'description' does not read as"),
    ],
    ids=["gone", "key gone", "text", "fraction", "too big", "flag", "null", "time", "object"],
)  # fmt: skip
def test_a_changed_field_is_refused_before_anything_is_loaded(
    postgres: Warehouse, api: GitHub, load: Load, change: Callable, message: str
) -> None:
    load()
    before = stars(postgres)
    query = api.answer

    def changed(asked):
        answer = json.loads(json.dumps(query(asked).body))
        answer["items"][0]["full_name"] = "changed/one"
        change(answer["items"][0])
        return Answer(answer)

    api.answer = changed  # type: ignore[method-assign]
    with pytest.raises(IngestionError) as error:
        load()
    assert message in str(error.value)
    assert "where: repository changed/one\n" in str(error.value)
    assert "compare the API's documentation" in str(error.value)
    assert not error.value.retryable
    assert stars(postgres) == before


@pytest.mark.sources
def test_fields_that_may_go_or_come_do_so(postgres: Warehouse, api: GitHub, load: Load) -> None:
    load()
    for repository in api.repositories:
        for name in ("topics", "license", "homepage", "forks_count"):
            del repository[name]
        repository |= {"sponsors": {"count": 3}, "stargazers_count": "991"}
    assert load().rows["repositories"] == 3
    assert postgres.query(
        f"select distinct topics, license_spdx_id, forks_count, stargazers_count "
        f"from {RAW}.repositories"
    ) == [(None, None, None, 991)]


def test_an_answer_without_a_count_is_refused(api: GitHub, load: Load) -> None:
    api.troubles.append(Answer({"items": []}))
    with pytest.raises(IngestionError, match=r"how many repositories it finds \(total_count\)"):
        load()


@pytest.mark.parametrize("given", [{"days": 0}, {"stars_min": -1}, {"language": 'a" b'}])
def test_a_search_that_is_none_is_refused_before_it_is_asked(
    api: GitHub, load: Load, given: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match="Invalid search"):
        load(**given)
    assert api.asked == []


def test_the_token_is_nowhere_in_the_warehouse(
    postgres: Warehouse, api: GitHub, load: Load
) -> None:
    load(token=TOKEN)
    tables = postgres.query(
        f"select table_name from information_schema.tables where table_schema = '{RAW}'"
    )
    for (table,) in tables:
        held = postgres.query(f"select t::text from {RAW}.{table} t")
        assert not any(TOKEN in row for (row,) in held), table


@pytest.mark.skipif(
    "GITHUB_TOKEN" not in os.environ,
    reason="THE REAL GITHUB IS NOT ASKED: set GITHUB_TOKEN to do so",
)
def test_the_real_github(postgres: Warehouse, tmp_path: Path) -> None:
    postgres.empty(SOURCE)
    done = ingest(SOURCE, postgres.profile, token=os.environ["GITHUB_TOKEN"], stars_min=200)
    assert done.rows["repositories"] > 0
    assert done.rows["repositories"] == len(stars(postgres))
