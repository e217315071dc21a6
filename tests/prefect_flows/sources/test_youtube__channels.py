"""What lands in a real Postgres from a server that answers as YouTube's Data API does."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.ingest.source_load import LoadRecord, ingest
from prefect_flows.sources.youtube__channels.tables import duration_seconds
from tests.support.embedded_postgres import Warehouse, warehouse
from tests.support.project import Project
from tests.support.rest_apis import Answer, Asked, YouTube, refused_by_google

SOURCE = "youtube__channels"
RAW = "raw_youtube__channels"
KEY = "AIza-made-up-key"
WHEELS, ANVIL = "UC" + "a" * 22, "UC" + "b" * 22
TODAY = datetime.now(UTC).date()
Load = Callable[..., LoadRecord]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with warehouse(tmp_path_factory.mktemp("youtube") / "local") as postgres:
        yield postgres


@pytest.fixture
def api() -> Iterator[YouTube]:
    api = YouTube()
    with api.running():
        yield api


@pytest.fixture
def load(postgres: Warehouse, api: YouTube) -> Load:
    postgres.empty(SOURCE)
    given = {"channels": [WHEELS, "@quietanvil"], "api_key": KEY, "api_url": api.url}
    return lambda **more: ingest(SOURCE, postgres.profile, **given | more)


@pytest.fixture
def rows(postgres: Warehouse) -> Callable[[str], list[tuple[Any, ...]]]:
    return lambda what: postgres.query(f"select {what}".replace(" from ", f" from {RAW}."))


@pytest.fixture
def a_day_passes(postgres: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The source's day is the next one; nothing else knows the date."""
    days = [0]

    def passes() -> None:
        days[0] += 1
        day = TODAY + timedelta(days=days[0])
        monkeypatch.setattr(
            "prefect_flows.sources.youtube__channels.channel_reader.today", lambda: day
        )

    return passes


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00")


def uploads(api: YouTube, count: int, *, first: int = 1) -> list[str]:
    """Videos published an hour after each other; their ids, the oldest first."""
    begin = datetime(2026, 11, 19, tzinfo=UTC)
    times = [begin + timedelta(hours=number) for number in range(first, first + count)]
    return [
        api.upload(number, time.strftime("%Y-%m-%dT%H:%M:%SZ"))
        for number, time in enumerate(times, first)
    ]


def test_channels_videos_and_statistics_land_row_by_row(api, load, rows) -> None:
    done = load()

    assert done.rows == {
        "channels": 2, "channel_statistics": 2, "videos": 4, "video_statistics": 4,
    }  # fmt: skip
    assert done.rejected == []
    made = utc("2015-03-04T05:06:07.123456")
    assert rows(
        "channel_id, title, handle, description, country, uploads_playlist_id, published_at "
        "from channels order by 1"
    ) == [
        (WHEELS, "Water Wheels Weekly", "@waterwheels", "About Water Wheels Weekly", "US",
         "UU" + "a" * 22, made),
        (ANVIL, "Quiet Anvil", "@quietanvil", "About Quiet Anvil", None, "UU" + "b" * 22, made),
    ]  # fmt: skip
    assert rows(
        "channel_id, observed_date, view_count, subscriber_count, video_count, "
        "hidden_subscriber_count from channel_statistics order by 1"
    ) == [
        (WHEELS, TODAY, 9223372036854775000, 120000, 3, False),
        (ANVIL, TODAY, 4521, None, 1, True),
    ]
    assert rows(
        "video_id, channel_id, title, description, category_id, live_broadcast_content, "
        "definition, duration_seconds, published_at from videos order by 1"
    ) == [
        ("vid-a-00001", WHEELS, "Live from the weir", "", "28", "none", "hd", 93600,
         utc("2026-01-31T23:59:59")),
        ("vid-a-00002", WHEELS, "A race of mills \U0001f3a1", "", "28", "none", "hd", 45,
         utc("2026-10-02T09:30:00")),
        ("vid-a-00003", WHEELS, "Overshot or undershot?", "", "28", "none", "hd", 3723,
         utc("2026-11-18T10:00:00")),
        ("vid-b-00001", ANVIL, "Silence", "", "28", "none", "hd", 600,
         utc("2025-05-05T05:05:05")),
    ]  # fmt: skip
    assert rows(
        "video_id, observed_date, view_count, like_count, comment_count "
        "from video_statistics order by 1"
    ) == [
        ("vid-a-00001", TODAY, 120, 3, 0), ("vid-a-00002", TODAY, 70000, None, None),
        ("vid-a-00003", TODAY, 5000, 400, 12), ("vid-b-00001", TODAY, 4521, 45, 0),
    ]  # fmt: skip
    assert {asked.headers["x-goog-api-key"] for asked in api.asked} == {KEY}
    assert not any("key" in asked.query for asked in api.asked)
    assert not any("search" in path for path in api.paths())


@pytest.mark.sources
def test_a_second_load_of_the_day_asks_for_no_video_again(api, load) -> None:
    load()
    api.asked.clear()
    assert set(load().rows.values()) == {0}
    assert api.paths() == ["/channels", "/channels", "/playlistItems", "/playlistItems"]


def test_statistics_are_snapshots_of_each_day(api, load, rows, a_day_passes) -> None:
    load()
    a_day_passes()
    api.videos[0]["statistics"]["viewCount"] = "5100"
    api.videos[0]["snippet"]["title"] = "Overshot!"
    done = load()
    assert done.rows == {
        "channels": 0, "channel_statistics": 2, "videos": 1, "video_statistics": 4,
    }  # fmt: skip
    assert rows(
        "observed_date, view_count from video_statistics where video_id = 'vid-a-00003' order by 1"
    ) == [(TODAY, 5000), (TODAY + timedelta(days=1), 5100)]
    assert rows("title from videos where video_id = 'vid-a-00003'") == [("Overshot!",)]
    assert rows("count(*) from videos") == [(4,)]


def test_new_videos_are_found_without_reading_the_old_again(api, load, rows) -> None:
    uploads(api, 210)
    assert load().rows["videos"] == 214
    assert api.paths().count("/playlistItems") == 6
    api.asked.clear()
    new = uploads(api, 3, first=700)
    assert load().rows["videos"] == 3
    assert set(new) < {video for (video,) in rows("video_id from videos")}
    # One page each of both channels, and one call for the three videos.
    assert api.paths().count("/videos") == 1
    assert api.paths().count("/playlistItems") <= 6


@pytest.mark.sources
def test_an_old_playlist_is_read_no_further_than_what_is_known(api, load) -> None:
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    for number in range(400):
        time = begin + timedelta(days=number)
        api.upload(number, time.strftime("%Y-%m-%dT%H:%M:%SZ"))
    load()
    api.asked.clear()
    load()
    assert api.paths().count("/playlistItems") == 2


@pytest.mark.sources
def test_pages_shift_and_double_and_nothing_is_lost(api, load, rows) -> None:
    ids = uploads(api, 120)
    query = api.answer

    def shifting(asked: Asked) -> Answer:
        answer = query(asked)
        if asked.path == "/playlistItems" and "pageToken" not in asked.query:
            # A video is published between the first page and the second.
            api.upload(900, "2026-11-30T00:00:00Z")
            api.answer = query  # type: ignore[method-assign]
        return answer

    api.answer = shifting  # type: ignore[method-assign]
    load(channels=[WHEELS])
    assert rows("count(*) from videos") == [(123,)]
    load(channels=[WHEELS])
    assert rows("count(*), count(distinct video_id) from videos") == [(124, 124)]
    assert set(ids) < {video for (video,) in rows("video_id from videos")}


@pytest.mark.sources
def test_a_budget_ends_a_load_and_the_next_goes_on_from_there(api, load, rows) -> None:
    # GIVEN 510 videos, which take a call for the channel, 11 for the list, and 11 for themselves
    uploads(api, 507)
    known, loads, finished = 0, 0, False
    while not finished:
        loads += 1
        api.asked.clear()
        # WHEN no load may spend more than 7 units
        done = load(channels=[WHEELS], quota_budget=7)
        assert len(api.asked) <= 7
        # THEN each load keeps what it read, and says what is left
        known += done.rows["videos"]
        assert rows("count(*), count(distinct video_id) from videos") == [(known, known)]
        finished = not done.rejected
        for notice in done.rejected:
            assert notice.table == "videos"
            assert notice.where == "after 7 of 7 units of quota"
            assert notice.why.startswith("the budget of 7 units is spent; left for the next load:")
        assert loads < 10
    # AND together they read all, each video once
    assert known == 510
    assert rows("count(*) from video_statistics") == [(510,)]
    assert loads > 4


@pytest.mark.sources
def test_a_video_known_before_the_budget_ended_is_asked_for_first(api, load, rows) -> None:
    # GIVEN a budget for the channel and the list, and none for the videos on it
    done = load(channels=[WHEELS], quota_budget=2)
    assert done.rows == {
        "channels": 1, "channel_statistics": 1, "videos": 0, "video_statistics": 0,
    }  # fmt: skip
    (notice,) = done.rejected
    assert notice.why == (
        "the budget of 2 units is spent; left for the next load: 3 known videos are not requested "
        f"today; uploads are not read to the end of {WHEELS}"
    )
    assert notice.rows == 3
    # WHEN the next may spend as little
    done = load(channels=[WHEELS], quota_budget=2)
    # THEN it asks for them before it looks for others
    assert done.rows["videos"] == done.rows["video_statistics"] == 3
    assert rows("count(*) from videos") == [(3,)]


@pytest.mark.nightly
@pytest.mark.kills
def test_videos_deleted_between_loads_make_none_be_passed_over(api, load, rows) -> None:
    # GIVEN a load that ended in the midst of a playlist
    ids = uploads(api, 400)
    load(channels=[WHEELS], quota_budget=7)
    read = {video for (video,) in rows("video_id from videos")}
    assert 0 < len(read) < 400
    # WHEN the newest hundred are deleted, so that all others move up by two pages
    gone = set(ids[-100:])
    api.videos = [video for video in api.videos if video["id"] not in gone]
    for _ in range(10):
        done = load(channels=[WHEELS], quota_budget=12)
    # THEN every one that is left is there
    assert done.rejected == []
    left = {video["id"] for video in api.videos if video["snippet"]["channelId"] == WHEELS}
    assert left <= {video for (video,) in rows("video_id from videos")}


@pytest.mark.sources
def test_a_page_s_token_that_expired_begins_the_list_again(api, load, rows) -> None:
    uploads(api, 300)
    load(channels=[WHEELS], quota_budget=7)
    query = api.answer

    def expired(asked: Asked) -> Answer:
        if asked.path == "/playlistItems" and "pageToken" in asked.query:
            api.answer = query  # type: ignore[method-assign]
            return refused_by_google(400, "invalidPageToken", "The page token is not valid.")
        return query(asked)

    api.answer = expired  # type: ignore[method-assign]
    assert load(channels=[WHEELS]).rejected == []
    assert rows("count(distinct video_id) from videos") == [(303,)]


@pytest.mark.sources
@pytest.mark.parametrize("units", [0, 1, 3, 8])
def test_youtube_s_own_quota_ends_a_load_cleanly(api, load, rows, caplog, units: int) -> None:
    uploads(api, 200)
    api.quota = units
    with caplog.at_level(logging.INFO):
        done = load(channels=[WHEELS])
    (notice,) = done.rejected
    assert "you have exceeded your quota.; left for the next load: " in notice.why
    assert notice.where == f"after {units + 1} of 10000 units of quota"
    assert f"YouTube: {units + 1} of 10000 units of quota spent." in caplog.text
    kept = done.rows["videos"]
    assert rows("count(*) from videos") == [(kept,)]
    api.quota = None
    assert load(channels=[WHEELS]).rows["videos"] == 203 - kept


@pytest.mark.sources
def test_retries_cost_units_too(api, load) -> None:
    api.troubles += [Answer({"error": {"message": "Backend Error"}}, 503)]
    load(channels=[WHEELS], quota_budget=4)
    assert len(api.asked) == 4


@pytest.mark.sources
def test_a_channel_that_youtube_does_not_know_is_reported_and_the_others_load(api, load) -> None:
    unknown = "UC" + "x" * 22
    done = load(channels=[WHEELS, unknown, "@nobody", WHEELS, "waterwheels"])
    assert done.rows["channels"] == 1
    assert [(r.table, r.where, r.why) for r in done.rejected] == [
        ("channels", unknown, "YouTube knows no such channel"),
        ("channels", "@nobody", "YouTube knows no such channel"),
    ]
    with pytest.raises(IngestionError, match="YouTube knows none of the channels: @nobody"):
        load(channels=["@nobody"])


@pytest.mark.sources
def test_a_channel_without_uploads_is_loaded(api, load, rows) -> None:
    api.videos = [v for v in api.videos if v["snippet"]["channelId"] == WHEELS]
    done = load()
    assert done.rejected == []
    assert rows("count(*) from channels") == [(2,)]
    api.upload(1, "2026-11-20T00:00:00Z", ANVIL)
    assert load().rows["videos"] == 1


def test_nothing_at_all_makes_the_tables(api, load, rows) -> None:
    api.quota = 0
    load()
    for table in ("channels", "channel_statistics", "videos", "video_statistics"):
        assert rows(f"count(*) from {table}") == [(0,)]


@pytest.mark.sources
def test_a_private_video_is_loaded_when_it_becomes_public(api, load, rows, a_day_passes) -> None:
    api.private.add("vid-a-00002")
    assert load().rows["videos"] == 3
    assert load().rows["videos"] == 0
    api.private.clear()
    a_day_passes()
    assert load().rows["videos"] == 1
    assert rows("count(*) from videos") == [(4,)]


@pytest.mark.sources
def test_old_videos_are_not_asked_for_when_statistics_have_an_age(
    api, load, rows, a_day_passes
) -> None:
    new = api.upload(1, f"{TODAY}T00:00:00Z")
    assert load(statistics_days=30).rows["video_statistics"] == 5, "each one is loaded once"
    a_day_passes()
    done = load(statistics_days=30)
    asked = {video for (video,) in rows(
        f"video_id from video_statistics where observed_date > '{TODAY}'")}  # fmt: skip
    assert new in asked
    assert "vid-a-00001" not in asked
    assert done.rows["video_statistics"] == len(asked)


@pytest.mark.sources
def test_a_full_refresh_reads_all_again(api, load, rows) -> None:
    load()
    done = load(full_refresh=True)
    assert done.rows == {
        "channels": 2, "channel_statistics": 2, "videos": 4, "video_statistics": 4,
    }  # fmt: skip
    assert rows("count(*) from videos") == [(4,)]


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("/channels", lambda c: c["contentDetails"].pop("relatedPlaylists"),
         "Table 'channels': the API's answer has no field "
         "'contentDetails.relatedPlaylists.uploads' any more"),
        ("/channels", lambda c: c["statistics"].update(viewCount="1.2M"),
         "Table 'channel_statistics': field 'statistics.viewCount' does not read as int64: "
         '"1.2M".'),
        ("/playlistItems", lambda p: p.pop("contentDetails"),
         "Table 'uploads': the API's answer has no field 'contentDetails.videoId' any more"),
        ("/videos", lambda v: v["snippet"].pop("publishedAt"),
         "Table 'videos': the API's answer has no field 'snippet.publishedAt' any more"),
        ("/videos", lambda v: v["snippet"].update(publishedAt="2026-11-20T10:00:00"),
         "field 'snippet.publishedAt' does not read as timestamp[us, tz=UTC]"),
        ("/videos", lambda v: v["contentDetails"].update(duration="three minutes"),
         "Table 'videos': field 'duration_seconds' does not read as int64: \"three minutes\"."),
        ("/videos", lambda v: v["statistics"].update(likeCount={"n": 1}),
         "field 'statistics.likeCount' does not read as int64: {\"n\": 1}."),
    ],
)  # fmt: skip
def test_a_changed_field_is_refused_before_anything_is_loaded(
    api, load, rows, path: str, change: Callable, message: str
) -> None:
    load()
    api.upload(1, "2026-11-20T00:00:00Z")
    query = api.answer

    def changed(asked: Asked) -> Answer:
        answer = query(asked)
        body = json.loads(json.dumps(answer.body))
        if asked.path == path:
            change(body["items"][0])
        return Answer(body, answer.status)

    api.answer = changed  # type: ignore[method-assign]
    with pytest.raises(IngestionError) as error:
        load()
    assert message in str(error.value)
    assert not error.value.retryable
    assert rows("count(*) from videos") == [(4,)]


@pytest.mark.sources
def test_fields_that_may_go_or_come_do_so(api, load, rows) -> None:
    for video in api.videos:
        video["statistics"] = {}
        del video["contentDetails"]["duration"]
        video["newPart"] = {"x": 1}
    assert load().rows["video_statistics"] == 4
    assert rows("distinct view_count, like_count from video_statistics") == [(None, None)]
    assert rows("distinct duration_seconds from videos") == [(None,)]


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (refused_by_google(400, "badRequest", "API key not valid. Please pass a valid API key.",
                           "API_KEY_INVALID"),
         "400 Bad Request: API key not valid. Please pass a valid API key."),
        (refused_by_google(403, "accessNotConfigured", "YouTube Data API v3 has not been used."),
         "403 Forbidden: YouTube Data API v3 has not been used."),
    ],
    ids=["key", "not enabled"],
)  # fmt: skip
def test_a_key_that_is_refused_is_reported_without_it(api, load, caplog, refusal, said) -> None:
    api.troubles.append(refusal)
    with caplog.at_level(logging.DEBUG), pytest.raises(IngestionError) as error:
        load()
    assert f"The API refuses the call: {said}" in str(error.value)
    assert "millrace secret youtube-channels-api-key-<target>" in str(error.value)
    assert KEY not in str(error.value) + caplog.text
    assert not error.value.retryable


@pytest.mark.sources
def test_faults_on_the_way_lose_nothing(api, load, rows) -> None:
    api.troubles += [
        Answer({"items": []}, cut=4),
        refused_by_google(500, "backendError", "Backend Error"),
        Answer('{"items": ['),
        Answer({"error": {"message": "slow down"}}, 429, {"Retry-After": "1"}),
    ]
    load()
    assert rows("count(*) from videos") == [(4,)]


@pytest.mark.parametrize(
    "given",
    [{"channels": []}, {"channels": ["@"]}, {"quota_budget": 0}, {"statistics_days": 0}],
)
def test_what_asks_for_nothing_is_refused_before_it_is_asked(api, load, given) -> None:
    with pytest.raises(ConfigurationError, match="Invalid parameters"):
        load(**given)
    assert api.asked == []


def test_the_key_is_nowhere_in_the_warehouse(postgres, load) -> None:
    load()
    tables = postgres.query(
        f"select table_name from information_schema.tables where table_schema = '{RAW}'"
    )
    for (table,) in tables:
        held = postgres.query(f"select t::text from {RAW}.{table} t")
        assert not any(KEY in row for (row,) in held), table


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT0S", 0), ("PT1H2M3S", 3723), ("P1DT2H", 93600), ("P0D", 0), ("P1W", 604800), (5, 5)],
)
def test_durations(text: Any, seconds: Any) -> None:
    assert duration_seconds({"contentDetails": {"duration": text}}) == seconds


@pytest.mark.sources
def test_it_is_a_flow_of_its_own_that_takes_its_key_from_a_block(
    project: Project, api: YouTube
) -> None:
    flow = ["-m", "prefect_flows.sources.youtube__channels.flow", WHEELS, "@quietanvil"]
    # GIVEN no key
    done = project.run(*flow, SOURCES__YOUTUBE__CHANNELS__API_URL=api.url)
    assert done.returncode == 2
    assert "Source 'youtube__channels' needs a secret for its 'api_key'" in done.stderr
    command = "millrace secret youtube-channels-api-key-dev"
    assert command in done.stderr
    assert api.asked == []
    # WHEN it is written with the command that the error names
    saved = project.run("-m", "infrastructure.cli", *command.split()[1:], text=KEY)
    assert saved.returncode == 0, saved.stderr
    done = project.run(*flow, SOURCES__YOUTUBE__CHANNELS__API_URL=api.url)
    # THEN the flow loads, and the key is in no log
    assert done.returncode == 0, done.stderr
    assert "raw_youtube__channels.videos: 4 new rows" in done.stderr
    assert api.asked[0].headers["x-goog-api-key"] == KEY
    assert KEY not in done.stdout + done.stderr


@pytest.mark.skipif(
    "YOUTUBE_API_KEY" not in os.environ,
    reason="THE REAL YOUTUBE IS NOT ASKED: set YOUTUBE_API_KEY to do so",
)
def test_the_real_youtube(postgres: Warehouse) -> None:
    postgres.empty(SOURCE)
    given = {"channels": ["@GoogleDevelopers"], "quota_budget": 20}
    done = ingest(SOURCE, postgres.profile, api_key=os.environ["YOUTUBE_API_KEY"], **given)
    assert done.rows["channels"] == 1
    assert done.rows["videos"] > 100
