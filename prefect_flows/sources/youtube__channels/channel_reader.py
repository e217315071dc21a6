"""Reads channels, videos and uploads within the quota, with state to resume in the next load.

It reads the channels first, then known videos (a statistic that is missed today is lost), then new
uploads page by page, with the videos of each page before the next page. When the quota ends, what
was read so far is loaded, together with the state:

    channels  {channel: [fingerprint, fingerprint of its statistics]}
    uploads   {channel: {until, walk}}: all uploads up to a time are known; an unfinished walk down
              the playlist has read from `newest` to `oldest`, last the page of `token`
    videos    {video: [channel, day of publication, day of its last statistics, fingerprint]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from dlt.sources.helpers.rest_client.client import RESTClient

from prefect_flows.core.errors import IngestionError
from prefect_flows.ingest.rest.client import ApiError, Page, get_rows, pages, run_logger
from prefect_flows.ingest.rest.responses import DAILY_LIMIT_REASONS
from prefect_flows.ingest.rest.tables import Table, get_fingerprint, today
from prefect_flows.ingest.source_load import reject
from prefect_flows.sources.youtube__channels.quota import Quota, QuotaReached
from prefect_flows.sources.youtube__channels.tables import (
    CHANNEL_STATISTICS,
    CHANNELS,
    UPLOADS,
    VIDEO_STATISTICS,
    VIDEOS,
    duration_seconds,
)

# Maximum number of results, or of ids in a request.
MAX_PER_CALL = 50
# Parts of a channel or video that a request asks for.
PARTS = "snippet,contentDetails,statistics"
# A playlist is sorted by publication, except for premieres and videos that became public later.
LOOKBACK = timedelta(days=7)

Batch = tuple[Table, list[dict[str, Any]]]


class ChannelReader:
    """One load: makes the calls, and updates the state of the source.

    Args:
        client: API client, which counts its calls in the quota.
        quota: units that the load may spend.
        state: dlt state of the source; changed in place.
        statistics_days: maximum age of videos whose statistics are read; None for all.
    """

    def __init__(
        self, client: RESTClient, quota: Quota, state: dict[str, Any], statistics_days: int | None
    ) -> None:
        self._client = client
        self._quota = quota
        self._channel_fingerprints: dict[str, list[str]] = state.setdefault("channels", {})
        self._uploads: dict[str, dict[str, Any]] = state.setdefault("uploads", {})
        self._videos: dict[str, list[str]] = state.setdefault("videos", {})
        self._today = today()
        self._day = self._today.isoformat()
        self._first_day = (
            (self._today - timedelta(days=statistics_days)).isoformat() if statistics_days else ""
        )

    def read_all(self, channel_names: Sequence[str]) -> Iterator[Batch]:
        """Yield rows of all tables in batches, until everything is read or the quota is used up.

        Raises:
            IngestionError: see the source.
        """
        playlists: dict[str, str] = {}
        try:
            yield from self._channels(channel_names, playlists)
            yield from self._read_videos(self._due_videos(playlists))
            for channel, playlist in playlists.items():
                for new in self._new_uploads(channel, playlist):
                    yield from self._read_videos(new)
        except QuotaReached as error:
            self._report_quota_end(str(error), playlists)
        except ApiError as refusal:
            if refusal.reason not in DAILY_LIMIT_REASONS:
                raise
            self._report_quota_end(refusal.what, playlists)
        run_logger().info(
            "YouTube: %s of %s units of quota spent.", self._quota.spent, self._quota.budget
        )

    def _report_quota_end(self, why: str, playlists: Mapping[str, str]) -> None:
        """Report that the quota ended, and what is left for the next load."""
        due = len(self._due_videos(playlists))
        unread = [
            channel
            for channel in playlists
            if channel not in self._uploads or self._uploads[channel]["walk"] is not None
        ]
        leftovers = [f"{due} known videos are not requested today"] if due else []
        leftovers += [f"uploads are not read to the end of {', '.join(unread)}"] if unread else []
        reject(
            VIDEOS.name,
            where=f"after {self._quota.spent} of {self._quota.budget} units of quota",
            why=f"{why}; left for the next load: {'; '.join(leftovers) or 'channels'}",
            rows=due,
        )

    def _channels(self, channel_names: Sequence[str], playlists: dict[str, str]) -> Iterator[Batch]:
        """Yield rows of the channels, and add the uploads playlist of each to `playlists`."""
        names = list(dict.fromkeys(name.strip() for name in channel_names))
        ids = [name for name in names if _is_id(name)]
        requests = [("id", batch) for batch in _batches(ids)]
        requests += [("forHandle", [name]) for name in names if not _is_id(name)]
        unknown = []
        for parameter, batch in requests:
            found = self._fetch_items("channels", parameter, batch)
            missing = set(batch) - {channel.get("id") for channel in found}
            unknown += sorted(missing) if parameter == "id" else batch if not found else []
            for channel in found:
                yield from self._channel(channel, playlists)
        for name in unknown:
            reject(CHANNELS.name, where=name, why="YouTube knows no such channel")
        if not playlists:
            raise IngestionError(
                f"YouTube knows none of the channels: {', '.join(names)}.",
                where="the parameter channels of source youtube__channels",
                fix="name channels by their ids (UC…) or handles (@…)",
            )

    def _channel(self, answer: dict[str, Any], playlists: dict[str, str]) -> Iterator[Batch]:
        where = f"channel {answer.get('id')}"
        row = CHANNELS.row(answer, where=where)
        numbers = CHANNEL_STATISTICS.row(answer | {"observed_date": self._today}, where=where)
        playlists[row["channel_id"]] = row["uploads_playlist_id"]
        before = self._channel_fingerprints.get(row["channel_id"], ["", ""])
        after = self._channel_fingerprints[row["channel_id"]] = [
            get_fingerprint(row),
            get_fingerprint(numbers),
        ]
        yield CHANNELS, [row] if after[0] != before[0] else []
        yield CHANNEL_STATISTICS, [numbers] if after[1] != before[1] else []

    def _due_videos(self, playlists: Iterable[str]) -> list[str]:
        """Return known videos to read today, those with the oldest statistics first."""
        due = [
            video
            for video, (channel, published, observed, row_fingerprint) in self._videos.items()
            if channel in playlists
            and observed != self._day
            # A video that was never loaded is due at any age.
            and (not row_fingerprint or not published or published >= self._first_day)
        ]
        return sorted(due, key=lambda video: self._videos[video][2])

    def _read_videos(self, ids: Sequence[str]) -> Iterator[Batch]:
        """Yield rows of videos and their statistics; private and deleted videos have none."""
        for batch in _batches(ids):
            found = self._fetch_items("videos", "id", batch)
            rows, numbers = [], []
            for answer in found:
                where = f"video {answer.get('id')}"
                dated = answer | {
                    "observed_date": self._today,
                    "duration_seconds": duration_seconds(answer),
                }
                row = VIDEOS.row(dated, where=where)
                known = self._videos.setdefault(row["video_id"], [row["channel_id"], "", "", ""])
                row_fingerprint = get_fingerprint(row)
                rows += [row] if row_fingerprint != known[3] else []
                numbers.append(VIDEO_STATISTICS.row(dated, where=where))
                known[1], known[3] = row["published_at"].date().isoformat(), row_fingerprint
            for video in batch:
                self._videos[video][2] = self._day
            if len(found) < len(batch):
                run_logger().info(
                    "YouTube returned %s of %s videos; the others are private or deleted.",
                    len(found),
                    len(batch),
                )
            yield VIDEOS, rows
            yield VIDEO_STATISTICS, numbers

    def _new_uploads(self, channel: str, playlist: str) -> Iterator[list[str]]:
        """Yield the ids of unknown videos page by page, newest first."""
        place = self._uploads.setdefault(channel, {"until": "", "walk": None})
        if place["walk"] is not None:
            yield from self._walk(channel, playlist, place)
        place["walk"] = {"token": "", "newest": "", "oldest": ""}
        yield from self._walk(channel, playlist, place)

    def _walk(self, channel: str, playlist: str, place: dict[str, Any]) -> Iterator[list[str]]:
        """Walk down the playlist from the saved position to the videos known before."""
        walk = place["walk"]
        token, resumed = walk["token"], bool(walk["oldest"])
        for page in self._playlist(playlist, token, resumed=resumed):
            uploads = [UPLOADS.row(item, where=f"playlist {playlist}") for item in page]
            times = [upload["published_at"] for upload in uploads if upload["published_at"]]
            if resumed and (not times or max(times).isoformat() < walk["oldest"]):
                # Videos were deleted meanwhile, so videos that moved up would be missed.
                place["walk"] = {"token": "", "newest": "", "oldest": ""}
                yield from self._walk(channel, playlist, place)
                return
            resumed = False
            new = [u["video_id"] for u in uploads if u["video_id"] not in self._videos]
            for upload in uploads:
                self._videos.setdefault(
                    upload["video_id"], [channel, _format_day(upload["published_at"]), "", ""]
                )
            walk["token"], token = token, page.body.get("nextPageToken", "")
            if times:
                walk["newest"] = max(walk["newest"], max(times).isoformat())
                walk["oldest"] = min(times).isoformat()
            yield list(dict.fromkeys(new))
            if times and place["until"]:
                known = datetime.fromisoformat(place["until"]) - LOOKBACK
                # The median of the page, since single videos may be out of order.
                if sorted(times)[len(times) // 2] < known:
                    break
        place["until"], place["walk"] = max(place["until"], walk["newest"]), None

    def _playlist(self, playlist: str, token: str, *, resumed: bool) -> Iterator[Page]:
        """Yield the pages of a playlist from a token on; nothing if a channel has no uploads."""
        params = {"part": "contentDetails", "playlistId": playlist, "maxResults": MAX_PER_CALL}
        try:
            yield from pages(
                self._client,
                "playlistItems",
                params | ({"pageToken": token} if token else {}),
                rows="items",
            )
        except ApiError as refusal:
            if refusal.status == 400 and resumed and token:
                # An old token may have expired. An empty page makes the walk start again.
                yield Page([], {})
            elif refusal.reason != "playlistNotFound":
                raise

    def _fetch_items(self, path: str, parameter: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """Fetch items by id or handle; YouTube leaves out the field `items` if there are none."""
        response = self._client.get(path, params={"part": PARTS, parameter: ",".join(names)})
        body = response.json()
        info = body.get("pageInfo") if isinstance(body, dict) else None
        if isinstance(info, dict) and info.get("totalResults") == 0 and "items" not in body:
            return []
        return get_rows(response, "items")


def _is_id(name: str) -> bool:
    return name.startswith("UC") and len(name) == 24


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    for first in range(0, len(names), MAX_PER_CALL):
        yield list(names[first : first + MAX_PER_CALL])


def _format_day(at: datetime | None) -> str:
    return at.date().isoformat() if at is not None else ""
