"""Tables of the source, and the fields of YouTube's responses in their columns.

Source: https://developers.google.com/youtube/v3/docs/channels, …/docs/videos, …/docs/playlistItems.
A channel may hide counts, which are null then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prefect_flows.ingest.rest.tables import BOOLEAN, DATE, INTEGER, TEXT, TIMESTAMP, Column, Table

CHANNELS = Table(
    "channels",
    ("channel_id",),
    {
        "channel_id": Column("id", TEXT, required=True),
        "title": Column("snippet.title", TEXT),
        "handle": Column("snippet.customUrl", TEXT),
        "description": Column("snippet.description", TEXT),
        "country": Column("snippet.country", TEXT),
        "uploads_playlist_id": Column(
            "contentDetails.relatedPlaylists.uploads", TEXT, required=True
        ),
        "published_at": Column("snippet.publishedAt", TIMESTAMP),
    },
)
CHANNEL_STATISTICS = Table(
    "channel_statistics",
    ("channel_id", "observed_date"),
    {
        "channel_id": Column("id", TEXT, required=True),
        "observed_date": Column("observed_date", DATE, required=True),
        "view_count": Column("statistics.viewCount", INTEGER),
        "subscriber_count": Column("statistics.subscriberCount", INTEGER),
        "video_count": Column("statistics.videoCount", INTEGER),
        "hidden_subscriber_count": Column("statistics.hiddenSubscriberCount", BOOLEAN),
    },
)
VIDEOS = Table(
    "videos",
    ("video_id",),
    {
        "video_id": Column("id", TEXT, required=True),
        "channel_id": Column("snippet.channelId", TEXT, required=True),
        "title": Column("snippet.title", TEXT),
        "description": Column("snippet.description", TEXT),
        "category_id": Column("snippet.categoryId", TEXT),
        "live_broadcast_content": Column("snippet.liveBroadcastContent", TEXT),
        "definition": Column("contentDetails.definition", TEXT),
        "duration_seconds": Column("duration_seconds", INTEGER),
        "published_at": Column("snippet.publishedAt", TIMESTAMP, required=True),
    },
)
VIDEO_STATISTICS = Table(
    "video_statistics",
    ("video_id", "observed_date"),
    {
        "video_id": Column("id", TEXT, required=True),
        "observed_date": Column("observed_date", DATE, required=True),
        "view_count": Column("statistics.viewCount", INTEGER),
        "like_count": Column("statistics.likeCount", INTEGER),
        "comment_count": Column("statistics.commentCount", INTEGER),
    },
)
# Items of an uploads playlist: parsed like a table, but not loaded. A private video has no time.
UPLOADS = Table(
    "uploads",
    ("video_id",),
    {
        "video_id": Column("contentDetails.videoId", TEXT, required=True),
        "published_at": Column("contentDetails.videoPublishedAt", TIMESTAMP),
    },
)
TABLES = (CHANNELS, CHANNEL_STATISTICS, VIDEOS, VIDEO_STATISTICS)

ISO_DURATION = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
SECONDS_PER_UNIT = (604_800, 86_400, 3_600, 60, 1)


def duration_seconds(video: Mapping[str, Any]) -> Any:
    """Return the seconds of `contentDetails.duration` (`PT1H2M3S`), or the value if it has none."""
    details = video.get("contentDetails")
    text = details.get("duration") if isinstance(details, Mapping) else None
    found = ISO_DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return text
    return sum(
        int(part or 0) * unit for part, unit in zip(found.groups(), SECONDS_PER_UNIT, strict=True)
    )
