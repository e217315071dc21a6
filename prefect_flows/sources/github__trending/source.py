"""dlt source for GitHub's search API: recent repositories, and a daily snapshot of their stars.

Source: https://docs.github.com/en/rest/search/search#search-repositories; 10 calls per minute
without a token, 30 with one.

GitHub returns at most 1,000 results per search. A search with more is split by the creation time of
repositories, down to a minute; what is beyond that is reported as rejected rows. Each load reads
all repositories of the period, since a change of stars leaves no other trace. It writes new and
changed repositories, and one row of stars per repository and day.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dlt
from dlt.extract import DltResource
from dlt.sources.helpers.rest_client.client import RESTClient
from dlt.sources.helpers.rest_client.paginators import HeaderLinkPaginator

from prefect_flows.core.date_window import DateWindow
from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.ingest.rest.client import RetryPolicy, pages, rest_client
from prefect_flows.ingest.rest.tables import (
    BOOLEAN,
    DATE,
    INTEGER,
    TEXT,
    TIMESTAMP,
    Column,
    Table,
    build_resources,
    get_fingerprint,
    today,
)
from prefect_flows.ingest.source_load import reject

MAX_RESULTS = 1000
PAGE_SIZE = 100
MIN_SPAN = timedelta(minutes=1)
SEARCH_PATH = "/search/repositories"
ACCESS = (
    "write a token that GitHub accepts, or remove the block to ask without one: "
    "uv run millrace secret github-trending-token-<target>"
)

REPOSITORIES = Table(
    "repositories",
    ("repo_id",),
    {
        "repo_id": Column("id", INTEGER, required=True),
        "full_name": Column("full_name", TEXT, required=True),
        "name": Column("name", TEXT, required=True),
        "owner_login": Column("owner.login", TEXT),
        "owner_type": Column("owner.type", TEXT),
        "description": Column("description", TEXT),
        "homepage": Column("homepage", TEXT),
        "html_url": Column("html_url", TEXT),
        "language": Column("language", TEXT),
        "license_spdx_id": Column("license.spdx_id", TEXT),
        "default_branch": Column("default_branch", TEXT),
        "topics": Column("topics", TEXT),
        "stargazers_count": Column("stargazers_count", INTEGER, required=True),
        "forks_count": Column("forks_count", INTEGER),
        "open_issues_count": Column("open_issues_count", INTEGER),
        "size_kilobytes": Column("size", INTEGER),
        "archived": Column("archived", BOOLEAN),
        "created_at": Column("created_at", TIMESTAMP, required=True),
        "updated_at": Column("updated_at", TIMESTAMP),
        "pushed_at": Column("pushed_at", TIMESTAMP),
    },
)
STAR_HISTORY = Table(
    "star_history",
    ("repo_id", "observed_date"),
    {
        "repo_id": Column("id", INTEGER, required=True),
        "observed_date": Column("observed_date", DATE, required=True),
        "stargazers_count": Column("stargazers_count", INTEGER, required=True),
        "forks_count": Column("forks_count", INTEGER),
        "open_issues_count": Column("open_issues_count", INTEGER),
    },
)
# `millrace check models` reads it.
DECLARED_TABLES = {table.name: table.schema for table in (REPOSITORIES, STAR_HISTORY)}
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Search:
    """A search for repositories created in a time span, both ends included."""

    language: str | None
    stars_min: int
    begin: datetime
    end: datetime

    @property
    def to_query(self) -> str:
        """The search in GitHub's query syntax."""
        span = f"created:{_format_time(self.begin)}..{_format_time(self.end)}"
        language = f'language:"{self.language}" ' if self.language else ""
        return f"{language}{span} stars:>={self.stars_min}"

    def split(self) -> list[Search]:
        """Split the search into two; empty if its time span is too short."""
        if self.end - self.begin < MIN_SPAN:
            return []
        middle = (self.begin + (self.end - self.begin) / 2).replace(microsecond=0)
        second = timedelta(seconds=1)
        return [
            Search(self.language, self.stars_min, self.begin, middle),
            Search(self.language, self.stars_min, middle + second, self.end),
        ]


@dlt.source(name="github__trending", schema_contract={"columns": "freeze", "data_type": "freeze"})
def github__trending(
    language: str | None = "Python",
    days: int = 7,
    stars_min: int = 100,
    full_refresh: bool = False,
    token: dlt.TSecretStrValue | None = None,
    api_url: str = "https://api.github.com",
    longest_wait: float = 300,
    window: DateWindow | None = None,
) -> list[DltResource]:
    """Repositories of the last days that have many stars, as two tables.

    Args:
        language: a language as GitHub names it; None for all of them.
        days: maximum age of a repository in days before today.
        stars_min: minimum number of stars.
        full_refresh: write all repositories, including those that did not change since the last
            load.
        token: token of a GitHub account, without permissions; without a token GitHub allows ten
            calls per minute.
        api_url: URL of the API; of an Enterprise server: https://HOST/api/v3.
        longest_wait: seconds that one call waits for GitHub's rate limit.
        window: days on which the repositories were created, instead of the last `days`.

    Raises:
        ConfigurationError: a parameter is invalid.
        IngestionError: GitHub does not answer, its rate limit takes longer, it refuses the search
            or the token, or its response has an unexpected shape.
    """
    if days < 1 or stars_min < 0 or (language is not None and '"' in language):
        raise ConfigurationError(
            f"Invalid search: language {language!r}, days {days}, stars_min {stars_min}.",
            where="the parameters of source github__trending",
            fix="give days of 1 or more, stars_min of 0 or more, and a language's name without "
            "quotes",
        )
    client = rest_client(
        api_url,
        secret=token,
        headers={"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"},
        paginator=HeaderLinkPaginator(),
        retry_policy=RetryPolicy(longest_wait=longest_wait),
        access=ACCESS,
    )

    def read() -> Iterator[tuple[Table, Rows]]:
        now = datetime.now(UTC).replace(microsecond=0)
        begin, end = (now - timedelta(days=days)).replace(hour=0, minute=0, second=0), now
        if window is not None:
            begin, after = window.moments()
            end = min(after - timedelta(seconds=1), now)
        state = dlt.current.source_state()
        known = {} if full_refresh else state.get("known", {})
        repositories, stars, seen = {}, {}, {}
        for answer in search(client, Search(language or None, stars_min, begin, end)):
            where = f"repository {answer.get('full_name', '(no name)')}"
            row = REPOSITORIES.row(answer, where=where)
            star = STAR_HISTORY.row(answer | {"observed_date": today()}, where=where)
            # Of a repository that is found twice, the last result counts.
            identity = str(row["repo_id"])
            repositories[identity], stars[identity] = row, star
            seen[identity] = [get_fingerprint(row), get_fingerprint(star)]
        # What a backfill did not look at stays known.
        state["known"] = seen if window is None else known | seen
        yield (
            REPOSITORIES,
            [row for i, row in repositories.items() if known.get(i, ["", ""])[0] != seen[i][0]],
        )
        yield (
            STAR_HISTORY,
            [row for i, row in stars.items() if known.get(i, ["", ""])[1] != seen[i][1]],
        )

    return build_resources(read, (REPOSITORIES, STAR_HISTORY))


def search(client: RESTClient, criteria: Search) -> Rows:
    """Return all results of a search; a repository may be in it more than once.

    Raises:
        IngestionError: see `prefect_flows.ingest.rest.client.pages`.
    """
    found, total, incomplete = _fetch_results(client, criteria)
    if total > MAX_RESULTS and criteria.split():
        return [answer for half in criteria.split() for answer in search(client, half)]
    if incomplete or _count_distinct(found) < min(total, MAX_RESULTS):
        # Ranks change between pages: a repository that came twice pushed another one out.
        more, total, incomplete = _fetch_results(client, criteria)
        found += more
    missing = total - _count_distinct(found)
    if incomplete or missing > 0:
        note = "; it says that it ran out of time" if incomplete else ""
        reject(
            REPOSITORIES.name,
            where=criteria.to_query,
            why=f"GitHub finds {total:,} and gives {_count_distinct(found):,}{note}",
            rows=max(missing, 0),
        )
    return found


def _fetch_results(client: RESTClient, criteria: Search) -> tuple[Rows, int, bool]:
    """Fetch results page by page; return them, their total, and whether GitHub ran out of time.

    Fetches only the first page of a search that has to be split.
    """
    params = {"q": criteria.to_query, "sort": "stars", "order": "desc", "per_page": PAGE_SIZE}
    found: Rows = []
    total, incomplete = 0, False
    for page in pages(client, SEARCH_PATH, params, rows="items"):
        count = page.body.get("total_count")
        if not isinstance(count, int):
            raise IngestionError(
                "GitHub no longer returns how many repositories it finds (total_count): "
                "whether all of them came cannot be known.",
                where=SEARCH_PATH,
                fix="compare https://docs.github.com/en/rest/search/search with "
                "prefect_flows/sources/github__trending/source.py",
            )
        total, incomplete = (
            max(total, count),
            incomplete or bool(page.body.get("incomplete_results")),
        )
        found += page
        if total > MAX_RESULTS and criteria.split():
            break
    return found, total, incomplete


def _count_distinct(answers: Rows) -> int:
    return len({answer.get("id") for answer in answers})


def _format_time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
