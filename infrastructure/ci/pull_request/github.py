"""GitHub REST API client: write the pull request comment, list open pull requests.

The token comes from the environment, is sent only in a header, and is never logged.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from infrastructure.ci.pull_request.comment import MARKER
from prefect_flows.core.errors import ConfigurationError, MillraceError
from prefect_flows.core.formatting import one_line

log = logging.getLogger("millrace")

TOKEN, API_URL = "GITHUB_TOKEN", "GITHUB_API_URL"
PUBLIC = "https://api.github.com"
API_VERSION = "2022-11-28"
ATTEMPTS = 5
FIRST_DELAY_SECONDS = 1.0
# Seconds to wait for a rate limit at most; after that, rerun the workflow later.
MAX_WAIT_SECONDS = 300.0
PER_PAGE = 100
MAX_PAGES = 100


class GitHubError(MillraceError):
    """GitHub does not respond, or rejects the request."""

    is_infrastructure_error = True


class GitHub:
    """API of one GitHub repository.

    Args:
        repository: owner/name.

    Raises:
        ConfigurationError: there is no token in the environment, or the name is invalid.
        GitHubError: from any method, if GitHub does not respond or rejects the request.
    """

    def __init__(self, repository: str) -> None:
        token = os.environ.get(TOKEN)
        if not token:
            raise ConfigurationError(
                "There is no token for GitHub.",
                where=f"the environment variable {TOKEN}",
                fix="in a workflow: env: GITHUB_TOKEN: ${{ github.token }}, and permissions: "
                "pull-requests: write; by hand: GITHUB_TOKEN=$(gh auth token)",
            )
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise ConfigurationError(
                f"Not the name of a repository: {repository!r}.",
                where="--repository",
                fix="write owner/name",
            )
        self._base = os.environ.get(API_URL, PUBLIC).rstrip("/")
        self._path = f"/repos/{repository}"
        self._client = httpx.Client(
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {token}",
                "User-Agent": "millrace",
                "X-GitHub-Api-Version": API_VERSION,
            },
            timeout=30.0,
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def comment(self, number: int, body: str, author: str) -> str:
        """Create the comment on a pull request, or update it, and return its URL.

        Comments of other authors are never changed. If two workflows created ours concurrently, the
        older one stays.
        """
        our_comments = self._list_our_comments(number, author)
        if not our_comments:
            issue = f"{self._path}/issues/{number}/comments"
            written = self._call("POST", issue, number=number, author=author, body=body)
            if written is not None:
                log.info("Written: %s", written["html_url"])
            our_comments = self._list_our_comments(number, author)
            if not our_comments:
                by = written["user"]["login"] if written else "somebody else"
                raise GitHubError(
                    f"The comment was written by {by}, and not by {author}: the next one would "
                    "not find it.",
                    where=f"{self._base}{issue}",
                    fix="name who the token belongs to with --author, and remove this comment",
                )
        first, *others = our_comments
        if first["body"] != body:
            path = f"{self._path}/issues/comments/{first['id']}"
            first = self._call("PATCH", path, body=body) or first
        for other in others:
            self._call("DELETE", f"{self._path}/issues/comments/{other['id']}")
        return str(first["html_url"])

    def open_pull_requests(self) -> set[int]:
        """Return the numbers of the open pull requests."""
        return {int(pull["number"]) for pull in self._pages(f"{self._path}/pulls?state=open")}

    def _list_our_comments(self, number: int, author: str) -> list[dict[str, Any]]:
        """Return our comments, oldest first."""
        found = [
            comment
            for comment in self._pages(f"{self._path}/issues/{number}/comments")
            if comment["body"].startswith(MARKER)
            and (comment["user"] or {}).get("login", "").lower() == author.lower()
        ]
        return sorted(found, key=lambda comment: int(comment["id"]))

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the items of a paginated list."""
        joint = "&" if "?" in path else "?"
        url: str | None = f"{self._base}{path}{joint}per_page={PER_PAGE}"
        for _ in range(MAX_PAGES):
            if url is None:
                return
            answer = self._request("GET", url)
            yield from _json(answer)
            url = answer.links.get("next", {}).get("url")
            if url is not None and not url.startswith(self._base + "/"):
                # Never send the token to another server.
                raise self._build_error("GET", url, "the next page lies on another server", "")
        raise self._build_error(
            "GET", path, f"more than {MAX_PAGES} pages", "look at what is listed"
        )

    def _call(
        self, method: str, path: str, number: int = 0, author: str = "", **body: str
    ) -> dict[str, Any] | None:
        """Send a change exactly once; return None if a lost response turns out to have succeeded.

        GitHub may have processed a `POST` whose response was lost, so the comments are listed again
        before it is repeated.
        """
        url = self._base + path
        for attempt in range(ATTEMPTS):
            try:
                answer = self._request(method, url, body, once=method == "POST")
            except _UnknownOutcome as error:
                if self._list_our_comments(number, author):
                    return None
                if attempt == ATTEMPTS - 1:
                    raise error.refusal from error
                _wait(FIRST_DELAY_SECONDS * 2**attempt, error.refusal.what)
            else:
                return _json(answer) if answer.content else {}
        raise AssertionError("the last attempt returns or raises")

    def _request(
        self, method: str, url: str, body: Mapping[str, str] | None = None, *, once: bool = False
    ) -> httpx.Response:
        """Send a request, and retry transient errors.

        Raises:
            _UnknownOutcome: with `once`, GitHub may or may not have processed the request.
        """
        waited = 0.0
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                answer = self._client.request(method, url, json=body or None)
            except httpx.TransportError as error:
                refusal = self._build_error(
                    method, url, f"no answer: {type(error).__name__}",
                    f"see that {self._base} can be reached from here, and try again",
                )  # fmt: skip
                if once and not isinstance(error, httpx.ConnectError):
                    raise _UnknownOutcome(refusal) from error
                if last:
                    raise refusal from error
                _wait(FIRST_DELAY_SECONDS * 2**attempt, refusal.what)
                continue
            if answer.is_success or (method == "DELETE" and answer.status_code == 404):
                return answer
            refusal = self._explain_refusal(method, url, answer)
            limited = _get_rate_limit_wait(answer)
            if limited is not None and not last and waited + limited <= MAX_WAIT_SECONDS:
                waited += limited
                _wait(limited, refusal.what)
            elif answer.status_code in (408, 500, 502, 503, 504):
                if once:
                    raise _UnknownOutcome(refusal)
                if last:
                    raise refusal
                _wait(FIRST_DELAY_SECONDS * 2**attempt, refusal.what)
            else:
                raise refusal
        raise AssertionError("the last attempt returns or raises")

    def _explain_refusal(self, method: str, url: str, answer: httpx.Response) -> GitHubError:
        message = _message(answer)
        fixes = {
            301: "the repository has another name now: name that with --repository",
            307: "the repository has another name now: name that with --repository",
            401: f"the token is wrong or expired: set {TOKEN} to another",
            403: "the token may not do this: a workflow needs permissions: pull-requests: write, "
            "which pull requests of forks never have",
            404: "see that repository and pull request exist, and that the token may read them",
            410: "see that the repository has pull requests switched on",
            422: "see what GitHub says; a comment may have 65,536 characters",
        }
        fix = fixes.get(answer.status_code, "see https://www.githubstatus.com, and try again")
        if _get_rate_limit_wait(answer) is not None:
            fix = "GitHub's rate limit is reached: try again later"
        return self._build_error(method, url, f"{answer.status_code} {message}", fix)

    def _build_error(self, method: str, url: str, what: str, fix: str) -> GitHubError:
        return GitHubError(
            f"GitHub refuses: {what}.",
            where=f"{method} {url}",
            fix=fix or f"see that {API_URL} names GitHub's own API",
        )


class _UnknownOutcome(Exception):
    """GitHub may or may not have processed the request."""

    def __init__(self, refusal: GitHubError) -> None:
        super().__init__(refusal.what)
        self.refusal = refusal


def _get_rate_limit_wait(answer: httpx.Response) -> float | None:
    """Return the seconds that a rate limit asks to wait, or None if it is not a rate limit.

    See https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api.
    """
    if answer.status_code not in (403, 429):
        return None
    after = answer.headers.get("retry-after", "")
    if after.isdigit():
        return float(after)
    if answer.headers.get("x-ratelimit-remaining") == "0":
        reset = answer.headers.get("x-ratelimit-reset", "")
        return max(float(reset) - time.time(), 1.0) if reset.isdigit() else 60.0
    if answer.status_code == 429 or "secondary rate limit" in _message(answer).lower():
        return 60.0
    return None


def _message(answer: httpx.Response) -> str:
    """Return GitHub's error message, in one line."""
    try:
        message = answer.json().get("message", "")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        message = answer.reason_phrase
    return one_line(str(message), 300)


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise GitHubError(
            "GitHub's answer is not JSON: another service answers in its place.",
            where=str(answer.request.url),
            fix=f"see that {API_URL} names GitHub's API, and whether a proxy is in between",
        ) from error


def _wait(seconds: float, why: str) -> None:
    log.info("%s Trying again in %.0f s.", why, seconds)
    time.sleep(seconds)
