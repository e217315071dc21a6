"""dlt source for the YouTube Data API v3: channels, videos and daily statistics of both.

Source: https://developers.google.com/youtube/v3/docs. It finds videos through the uploads playlist
of a channel, newest first, back to the last load; a search would cost a hundred times as much.
Statistics are read once a day, 50 videos per call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dlt
from dlt.extract import DltResource
from dlt.sources.helpers.rest_client.paginators import JSONResponseCursorPaginator

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.ingest.rest.client import RetryPolicy, rest_client
from prefect_flows.ingest.rest.tables import Table, build_resources
from prefect_flows.sources.youtube__channels.channel_reader import ChannelReader
from prefect_flows.sources.youtube__channels.quota import Quota
from prefect_flows.sources.youtube__channels.tables import TABLES

ACCESS = (
    "let the key ask the YouTube Data API v3 (Google Cloud console, APIs & Services), and write "
    "it: uv run millrace secret youtube-channels-api-key-<target>"
)
# `millrace check models` reads it.
DECLARED_TABLES = {table.name: table.schema for table in TABLES}


@dlt.source(name="youtube__channels", schema_contract={"columns": "freeze", "data_type": "freeze"})
def youtube__channels(
    channels: list[str],
    api_key: dlt.TSecretStrValue,
    quota_budget: int = 10_000,
    statistics_days: int | None = None,
    full_refresh: bool = False,
    api_url: str = "https://www.googleapis.com/youtube/v3",
    longest_wait: float = 300,
) -> list[DltResource]:
    """Channels, videos, and daily statistics of both, as four tables.

    Args:
        channels: ids (`UC…`) or handles (`@…`).
        api_key: API key of a Google Cloud project with access to the YouTube Data API v3.
        quota_budget: units that one load may spend; a call costs one. When they are spent, what was
            read is loaded, and the next load continues from there.
        statistics_days: maximum age in days of videos whose statistics are read; all by default.
        full_refresh: read all videos again.
        api_url: URL of the API.
        longest_wait: seconds that one call waits for a rate limit.

    Raises:
        ConfigurationError: a parameter is invalid.
        IngestionError: YouTube does not answer, refuses the key, knows none of the channels, or its
            response has an unexpected shape.
    """
    if (
        not channels
        or not all(channel.strip("@ ") for channel in channels)
        or quota_budget < 1
        or (statistics_days is not None and statistics_days < 1)
    ):
        raise ConfigurationError(
            f"Invalid parameters: channels {channels}, quota_budget {quota_budget}, "
            f"statistics_days {statistics_days}.",
            where="the parameters of source youtube__channels",
            fix="name channels by their ids (UC…) or handles (@…), and give numbers of 1 or more",
        )
    quota = Quota(quota_budget)
    client = rest_client(
        api_url,
        secret=api_key,
        secret_header="X-Goog-Api-Key",  # noqa: S106 (a header's name)
        paginator=JSONResponseCursorPaginator(
            cursor_path="nextPageToken", cursor_param="pageToken"
        ),
        retry_policy=RetryPolicy(longest_wait=longest_wait),
        access=ACCESS,
        before_call=quota.spend,
    )

    def read() -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        state = dlt.current.source_state()
        for state_key in ("channels", "uploads", "videos") if full_refresh else ():
            state.pop(state_key, None)
        yield from ChannelReader(client, quota, state, statistics_days).read_all(channels)

    return build_resources(read, TABLES)
