"""How much of the channels is read, in which order, and where the next load goes on.

First the channels, then the videos that are known (a statistic that is not taken today is lost),
then uploads that are new, page by page, each page's videos before the next page. When the quota
ends, everything up to there is loaded, together with the state that says so:

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
from prefect_flows.ingest.rest.client import ApiError, Page, pages, rows_of, run_logger
from prefect_flows.ingest.rest.responses import DAY_REASONS
from prefect_flows.ingest.rest.tables import Table, fingerprint, today
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

# The most that a call gives, or takes as ids.
MOST = 50
# A playlist is sorted by time of publication but for premieres and videos made public late.
LOOKBACK = timedelta(days=7)

Batch = tuple[Table, list[dict[str, Any]]]


class Reading:
    """One load: the calls it makes, and the state of the source that it moves on.

    Args:
        client: of the API; it counts its calls on the quota.
        quota: what the load may spend.
        state: of the source, as dlt keeps it; changed in place.
        statistics_days: age up to which a video's statistics are asked for; none for all.
    """

    def __init__(
        self, client: RESTClient, quota: Quota, state: dict[str, Any], statistics_days: int | None
    ) -> None:
        self._client = client
        self._quota = quota
        self._seen: dict[str, list[str]] = state.setdefault("channels", {})
        self._uploads: dict[str, dict[str, Any]] = state.setdefault("uploads", {})
        self._videos: dict[str, list[str]] = state.setdefault("videos", {})
        self._today = today()
        self._day = self._today.isoformat()
        self._first_day = (
            (self._today - timedelta(days=statistics_days)).isoformat() if statistics_days else ""
        )

    def all_of(self, wanted: Sequence[str]) -> Iterator[Batch]:
        """Rows of all tables, in batches, until everything is read or the quota ends.

        Raises:
            IngestionError: see the source.
        """
        playlists: dict[str, str] = {}
        try:
            yield from self._channels(wanted, playlists)
            yield from self._of_videos(self._due(playlists))
            for channel, playlist in playlists.items():
                for new in self._new_uploads(channel, playlist):
                    yield from self._of_videos(new)
        except QuotaReached as reached:
            self._say(str(reached), playlists)
        except ApiError as refusal:
            if refusal.reason not in DAY_REASONS:
                raise
            self._say(refusal.what, playlists)
        run_logger().info(
            "YouTube: %s of %s units of quota spent.", self._quota.spent, self._quota.budget
        )

    def _say(self, why: str, playlists: Mapping[str, str]) -> None:
        """That the quota ended, and what is left for the next load."""
        due = len(self._due(playlists))
        unread = [
            channel
            for channel in playlists
            if channel not in self._uploads or self._uploads[channel]["walk"] is not None
        ]
        left = [f"{due} known videos are not asked for today"] if due else []
        left += [f"uploads are not read to the end of {', '.join(unread)}"] if unread else []
        reject(
            VIDEOS.name,
            where=f"after {self._quota.spent} of {self._quota.budget} units of quota",
            why=f"{why}; left for the next load: {'; '.join(left) or 'channels'}",
            rows=due,
        )

    def _channels(self, wanted: Sequence[str], playlists: dict[str, str]) -> Iterator[Batch]:
        """The channels themselves; `playlists` gets the uploads playlist of each."""
        names = list(dict.fromkeys(name.strip() for name in wanted))
        ids = [name for name in names if _is_id(name)]
        asked = [("id", batch) for batch in _batches(ids)]
        asked += [("forHandle", [name]) for name in names if not _is_id(name)]
        unknown = []
        for parameter, batch in asked:
            found = self._listed("channels", "snippet,contentDetails,statistics", parameter, batch)
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
        before = self._seen.get(row["channel_id"], ["", ""])
        after = self._seen[row["channel_id"]] = [fingerprint(row), fingerprint(numbers)]
        yield CHANNELS, [row] if after[0] != before[0] else []
        yield CHANNEL_STATISTICS, [numbers] if after[1] != before[1] else []

    def _due(self, playlists: Iterable[str]) -> list[str]:
        """Known videos that are to be asked for today, the longest waiting first."""
        due = [
            video
            for video, (channel, published, observed, print_) in self._videos.items()
            if channel in playlists
            and observed != self._day
            # One that was never loaded is, whatever its age.
            and (not print_ or not published or published >= self._first_day)
        ]
        return sorted(due, key=lambda video: self._videos[video][2])

    def _of_videos(self, ids: Sequence[str]) -> Iterator[Batch]:
        """The videos and their statistics. One that is not shown (private, deleted) has none."""
        for batch in _batches(ids):
            found = self._listed("videos", "snippet,contentDetails,statistics", "id", batch)
            rows, numbers = [], []
            for answer in found:
                where = f"video {answer.get('id')}"
                dated = answer | {
                    "observed_date": self._today,
                    "duration_seconds": duration_seconds(answer),
                }
                row = VIDEOS.row(dated, where=where)
                known = self._videos.setdefault(row["video_id"], [row["channel_id"], "", "", ""])
                print_ = fingerprint(row)
                rows += [row] if print_ != known[3] else []
                numbers.append(VIDEO_STATISTICS.row(dated, where=where))
                known[1], known[3] = row["published_at"].date().isoformat(), print_
            for video in batch:
                self._videos[video][2] = self._day
            if len(found) < len(batch):
                run_logger().info(
                    "YouTube shows %s of %s videos; the others are private or deleted.",
                    len(found),
                    len(batch),
                )
            yield VIDEOS, rows
            yield VIDEO_STATISTICS, numbers

    def _new_uploads(self, channel: str, playlist: str) -> Iterator[list[str]]:
        """Ids of the videos of each page that are not known yet, newest page first."""
        place = self._uploads.setdefault(channel, {"until": "", "walk": None})
        if place["walk"] is not None:
            yield from self._walk(channel, playlist, place)
        place["walk"] = {"token": "", "newest": "", "oldest": ""}
        yield from self._walk(channel, playlist, place)

    def _walk(self, channel: str, playlist: str, place: dict[str, Any]) -> Iterator[list[str]]:
        """Go down the playlist from where the walk is to what was known before it."""
        walk = place["walk"]
        token, resumed = walk["token"], bool(walk["oldest"])
        for page in self._playlist(playlist, token, resumed=resumed):
            uploads = [UPLOADS.row(item, where=f"playlist {playlist}") for item in page]
            times = [upload["published_at"] for upload in uploads if upload["published_at"]]
            if resumed and (not times or max(times).isoformat() < walk["oldest"]):
                # Videos were deleted meanwhile: what moved up would be passed over.
                place["walk"] = {"token": "", "newest": "", "oldest": ""}
                yield from self._walk(channel, playlist, place)
                return
            resumed = False
            new = [u["video_id"] for u in uploads if u["video_id"] not in self._videos]
            for upload in uploads:
                self._videos.setdefault(
                    upload["video_id"], [channel, _day_of(upload["published_at"]), "", ""]
                )
            walk["token"], token = token, page.body.get("nextPageToken", "")
            if times:
                walk["newest"] = max(walk["newest"], max(times).isoformat())
                walk["oldest"] = min(times).isoformat()
            yield list(dict.fromkeys(new))
            if times and place["until"]:
                known = datetime.fromisoformat(place["until"]) - LOOKBACK
                # Half of the page: a single video may stand where its time does not belong.
                if sorted(times)[len(times) // 2] < known:
                    break
        place["until"], place["walk"] = max(place["until"], walk["newest"]), None

    def _playlist(self, playlist: str, token: str, *, resumed: bool) -> Iterator[Page]:
        """The pages of a playlist from one on; none where a channel has no uploads."""
        params = {"part": "contentDetails", "playlistId": playlist, "maxResults": MOST}
        try:
            yield from pages(
                self._client,
                "playlistItems",
                params | ({"pageToken": token} if token else {}),
                rows="items",
            )
        except ApiError as refusal:
            if refusal.status == 400 and resumed and token:
                # A token of days ago may have expired. A page without uploads: begin again.
                yield Page([], {})
            elif refusal.reason != "playlistNotFound":
                raise

    def _listed(
        self, path: str, part: str, parameter: str, names: Sequence[str]
    ) -> list[dict[str, Any]]:
        """What YouTube has of some names. It leaves the list out where there is nothing in it."""
        response = self._client.get(path, params={"part": part, parameter: ",".join(names)})
        body = response.json()
        info = body.get("pageInfo") if isinstance(body, dict) else None
        if isinstance(info, dict) and info.get("totalResults") == 0 and "items" not in body:
            return []
        return rows_of(response, "items")


def _is_id(name: str) -> bool:
    return name.startswith("UC") and len(name) == 24


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    for first in range(0, len(names), MOST):
        yield list(names[first : first + MOST])


def _day_of(at: datetime | None) -> str:
    return at.date().isoformat() if at is not None else ""
