"""Stand-ins of REST APIs: real HTTP servers on loopback that answer in the documented shapes.

Each holds what its API would know, and a queue of troubles that it answers with first.
"""

from __future__ import annotations

import copy
import http.server
import json
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.support.project import serving

RECORDED = Path(__file__).parents[1] / "prefect_flows" / "sources"


@dataclass
class Answer:
    """What the server says to one call.

    Attributes:
        cut: bytes of the body after which the connection is lost; the length promises all of it.
        delay: seconds before anything is said.
    """

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    delay: float = 0


@dataclass
class Asked:
    """A call that came."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


class Api:
    """A server's knowledge, its troubles, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.troubles: deque[Answer] = deque()
        self.url = ""

    def answer(self, asked: Asked) -> Answer:
        raise NotImplementedError

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    @contextmanager
    def running(self) -> Iterator[None]:
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                asked = Asked(parts.path, query, {k.lower(): v for k, v in self.headers.items()})
                api.asked.append(asked)
                answer = api.troubles.popleft() if api.troubles else api.answer(asked)
                time.sleep(answer.delay)
                text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
                body = text.encode()
                headers = {"Content-Type": "application/json"} | answer.headers
                try:
                    self.send_response(answer.status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body[: answer.cut])
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # who asked did not wait
                if answer.cut is not None:
                    self.close_connection = True

        with serving(Handler) as self.url:
            yield


class GitHub(Api):
    """`/search/repositories`: a query's span, stars and language; pages by `Link`."""

    def __init__(self) -> None:
        super().__init__()
        text = (RECORDED / "github__trending" / "search_repositories.json").read_text()
        today = datetime.now(UTC).date()
        for days in range(10):
            text = text.replace(f"{{day-{days}}}", (today - timedelta(days=days)).isoformat())
        self.repositories: list[dict[str, Any]] = json.loads(text)["items"]
        self.most = 1000
        self.incomplete = False

    def copies(self, count: int, **fields: Any) -> None:
        """More repositories, their ids from 10,001 on."""
        for number in range(1, count + 1):
            made = copy.deepcopy(self.repositories[1])
            made |= {
                "id": 10_000 + number,
                "name": f"copy-{number}",
                "full_name": f"c/copy-{number}",
            }
            self.repositories.append(made | {"stargazers_count": 400 - number % 300} | fields)

    def answer(self, asked: Asked) -> Answer:
        if asked.path != "/search/repositories":
            return Answer({"message": "Not Found"}, 404)
        query = asked.query
        begin, end, stars = re.findall(r"created:(\S+)\.\.(\S+) stars:>=(\d+)", query["q"])[0]
        language = re.findall(r'language:"([^"]+)"', query["q"])
        found = [
            repository
            for repository in self.repositories
            if begin <= repository["created_at"] <= end
            and int(repository["stargazers_count"]) >= int(stars)
            and language in ([], [repository["language"]])
        ]
        found.sort(key=lambda repository: -int(repository["stargazers_count"]))
        page, size = int(query.get("page", 1)), int(query["per_page"])
        given = found[: self.most]
        headers = {}
        if page * size < len(given):
            following = urlencode(query | {"page": page + 1})
            headers["Link"] = f'<{self.url}{asked.path}?{following}>; rel="next"'
        body = {
            "total_count": len(found),
            "incomplete_results": self.incomplete,
            "items": given[(page - 1) * size : page * size],
        }
        return Answer(body, headers=headers)


class YouTube(Api):
    """`/channels`, `/playlistItems` and `/videos`; a page's token is where it begins."""

    def __init__(self) -> None:
        super().__init__()
        folder = RECORDED / "youtube__channels"
        self.channels: list[dict[str, Any]] = json.loads((folder / "channels.json").read_text())[
            "items"
        ]
        self.videos: list[dict[str, Any]] = json.loads((folder / "videos.json").read_text())[
            "items"
        ]
        self.private: set[str] = set()
        self.page_size = 50
        self.quota: int | None = None

    def upload(self, number: int, published: str, channel: str = "UC" + "a" * 22) -> str:
        """One more video; its id."""
        made = copy.deepcopy(self.videos[0])
        made["id"] = f"made-{number:06d}"
        made["snippet"] |= {
            "title": f"Made {number}", "publishedAt": published, "channelId": channel,
        }  # fmt: skip
        self.videos.append(made)
        return str(made["id"])

    def answer(self, asked: Asked) -> Answer:
        if self.quota is not None:
            self.quota -= 1
            if self.quota < 0:
                return refused_by_google(
                    403, "quotaExceeded",
                    'The request cannot be completed because you have exceeded your '
                    '<a href="/youtube/v3/getting-started#quota">quota</a>.',
                )  # fmt: skip
        kind = asked.path.rsplit("/", 1)[-1]
        if kind == "channels":
            return Answer(self._channels(asked.query))
        if kind == "videos":
            wanted = asked.query["id"].split(",")
            assert len(wanted) <= 50
            found = [v for v in self.videos if v["id"] in wanted and v["id"] not in self.private]
            return Answer(_listing("video", found, len(found)))
        return self._playlist(asked.query)

    def _channels(self, query: dict[str, str]) -> dict[str, Any]:
        if "id" in query:
            wanted = query["id"].split(",")
            found = [channel for channel in self.channels if channel["id"] in wanted]
        else:
            handle = "@" + query["forHandle"].removeprefix("@")
            found = [c for c in self.channels if c["snippet"]["customUrl"] == handle]
        listing = _listing("channel", found, len(found))
        # As the real one does.
        return listing if found else {k: v for k, v in listing.items() if k != "items"}

    def _playlist(self, query: dict[str, str]) -> Answer:
        channel = "UC" + query["playlistId"].removeprefix("UU")
        uploads = [video for video in self.videos if video["snippet"]["channelId"] == channel]
        if not uploads:
            return refused_by_google(
                404, "playlistNotFound", "The playlist identified cannot be found."
            )
        uploads.sort(key=lambda video: video["snippet"]["publishedAt"], reverse=True)
        begin = int(query.get("pageToken", "at0").removeprefix("at"))
        size = min(int(query["maxResults"]), self.page_size)
        page = [self._item(video) for video in uploads[begin : begin + size]]
        listing = _listing("playlistItem", page, len(uploads))
        if begin + size < len(uploads):
            listing["nextPageToken"] = f"at{begin + size}"
        return Answer(listing)

    def _item(self, video: dict[str, Any]) -> dict[str, Any]:
        details = {"videoId": video["id"]}
        if video["id"] not in self.private:
            details["videoPublishedAt"] = video["snippet"]["publishedAt"]
        return {"kind": "youtube#playlistItem", "id": f"item-{video['id']}",
                "contentDetails": details}  # fmt: skip


def refused_by_google(status: int, reason: str, message: str, detail: str = "") -> Answer:
    """An error as Google's APIs put it."""
    error = {
        "code": status,
        "message": message,
        "errors": [{"message": message, "domain": "youtube", "reason": reason}],
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": detail}],
    }
    return Answer({"error": error}, status)


def _listing(kind: str, items: list[dict[str, Any]], total: int) -> dict[str, Any]:
    return {
        "kind": f"youtube#{kind}ListResponse",
        "etag": "made-up",
        "pageInfo": {"totalResults": total, "resultsPerPage": 50},
        "items": items,
    }
