"""A server that answers as GitHub's REST API is documented to, for one repository."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from tests.support.project import serving

TOKEN = "ghs_made_up_token"
BOT = "github-actions[bot]"
REPOSITORY = "owner/millrace"


@dataclass
class Fault:
    """What the next call of a kind is answered with.

    Attributes:
        done: whether it is done all the same, and only its answer is this.
    """

    method: str
    status: int
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    done: bool = False
    text: str | None = None


@dataclass
class GitHubServer:
    """What it holds, what it was asked, and what it will do wrong.

    Attributes:
        per_page: items of a page, whatever is asked.
        next_page: address that pages link to instead of their own.
    """

    url: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    open_pull_requests: list[int] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    per_page: int = 100
    next_page: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    _ids: int = 1000

    def add(self, body: str, login: str = BOT) -> dict[str, Any]:
        """A comment, in GitHub's shape as far as anybody reads it."""
        self._ids += 1
        page = f"https://github.com/{REPOSITORY}/pull/7#issuecomment-{self._ids}"
        kind = "Bot" if login.endswith("[bot]") else "User"
        user = {"login": login, "type": kind}
        comment = {"id": self._ids, "body": body, "user": user, "html_url": page}
        self.comments.append(comment)
        return comment

    def calls(self, method: str) -> int:
        return sum(each == method for each, _ in self.asked)


class _Handler(http.server.BaseHTTPRequestHandler):
    github: ClassVar[GitHubServer]

    def do_GET(self) -> None:
        self._take("GET")

    def do_POST(self) -> None:
        self._take("POST")

    def do_PATCH(self) -> None:
        self._take("PATCH")

    def do_DELETE(self) -> None:
        self._take("DELETE")

    def _take(self, method: str) -> None:
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length)) if length else {}
        with self.github.lock:
            self.github.asked.append((method, self.path))
            fault = next((f for f in self.github.faults if f.method == method), None)
            if fault is not None:
                self.github.faults.remove(fault)
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                self._send(401, {"message": "Bad credentials"})
                return
            status, document, headers = 200, None, {}
            if fault is None or fault.done:
                status, document, headers = self._answer(method, body)
        if fault is not None and fault.status == 0:
            self.close_connection = True
            self.connection.close()
        elif fault is not None:
            said = {"message": fault.message, "documentation_url": "https://docs.github.com"}
            self._send(fault.status, said, fault.headers, fault.text)
        else:
            self._send(status, document, headers)

    def _answer(self, method: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        path = urlsplit(self.path)
        base = f"/repos/{REPOSITORY}"
        if path.path == f"{base}/issues/7/comments" and method == "GET":
            return self._page(self.github.comments)
        if path.path == f"{base}/issues/7/comments" and method == "POST":
            if len(body["body"]) > 65_536:
                return 422, {"message": "Validation Failed"}, {}
            return 201, self.github.add(body["body"]), {}
        if path.path == f"{base}/pulls" and parse_qs(path.query)["state"] == ["open"]:
            return self._page([{"number": n} for n in self.github.open_pull_requests])
        return self._of_comment(path.path, method, body)

    def _of_comment(
        self, path: str, method: str, body: dict[str, Any]
    ) -> tuple[int, Any, dict[str, str]]:
        found = re.fullmatch(rf"/repos/{REPOSITORY}/issues/comments/(\d+)", path)
        known = self.github.comments
        comment = next((c for c in known if found and c["id"] == int(found[1])), None)
        if comment is None:
            return 404, {"message": "Not Found"}, {}
        if method == "DELETE":
            known.remove(comment)
            return 204, None, {}
        comment["body"] = body["body"]
        return 200, comment, {}

    def _page(self, items: list[Any]) -> tuple[int, Any, dict[str, str]]:
        path = urlsplit(self.path)
        query = parse_qs(path.query)
        assert query["per_page"] == ["100"]
        page = int(query.get("page", ["1"])[0])
        shown = items[(page - 1) * self.github.per_page : page * self.github.per_page]
        headers = {}
        if page * self.github.per_page < len(items):
            rest = path.query.replace(f"&page={page}", "")
            link = self.github.next_page or f"{self.github.url}{path.path}?{rest}&page={page + 1}"
            headers["Link"] = f'<{link}>; rel="next", <{self.github.url}>; rel="last"'
        return 200, shown, headers

    def _send(
        self,
        status: int,
        document: Any,
        headers: dict[str, str] | None = None,
        text: str | None = None,
    ) -> None:
        data = b"" if document is None else json.dumps(document).encode()
        data = data if text is None else text.encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def github_server() -> Iterator[GitHubServer]:
    """One on loopback, while the context lasts."""
    github = GitHubServer()
    with serving(type("Handler", (_Handler,), {"github": github})) as url:
        github.url = url
        yield github
