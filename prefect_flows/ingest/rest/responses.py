"""What an API's answer says beside its rows: how long to wait, why it refuses, in whose words.

Sources: https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api,
https://developers.google.com/youtube/v3/docs/errors, RFC 9110 (Retry-After), RFC 9457 (problems).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from requests import Response

# Google's words for limits of a minute. Those of a day (quotaExceeded) are no matter of waiting.
MINUTE_REASONS = {"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"}
DAY_REASONS = {"quotaExceeded", "dailyLimitExceeded"}
LONGEST_MESSAGE = 500
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Limit:
    """A rate limit: seconds to wait, or none where the answer does not say."""

    seconds: float | None


def limited_for(response: Response, reason: str | None, now: float) -> Limit | None:
    """The rate limit that an answer tells of; none where it tells of none.

    Args:
        response: an answer of status 400 or higher.
        reason: what `reason_of` found in it.
        now: seconds since 1970.
    """
    headers, status = response.headers, response.status_code
    if status not in {403, 429, 503} or reason in DAY_REASONS:
        return None
    after = _retry_after(headers.get("Retry-After"), now)
    if after is not None:
        return Limit(after)
    spent = headers.get("X-RateLimit-Remaining", "").strip() == "0"
    reset = headers.get("X-RateLimit-Reset", "").strip()
    if (spent or status == 429) and reset.isdecimal():
        # Whole seconds, and the clocks differ: a second more is sooner than once more.
        return Limit(max(int(reset) - now, 0) + 1)
    # GitHub's secondary limits may come with no header at all, and name their page.
    page = str(_body(response).get("documentation_url", ""))
    if status == 429 or spent or reason in MINUTE_REASONS or "rate-limit" in page:
        return Limit(None)
    return None


def reason_of(response: Response) -> str | None:
    """The API's own word for a refusal: Google's `errors[0].reason`, GitHub's `errors[0].code`."""
    body = _body(response)
    error = body.get("error")
    holder = error if isinstance(error, dict) else body
    errors = holder.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else {}
    found = (first.get("reason") or first.get("code")) if isinstance(first, dict) else None
    found = found or holder.get("status") or (error if isinstance(error, str) else None)
    return found if isinstance(found, str) else None


def is_about_access(response: Response) -> bool:
    """Whether the secret is refused: 401, 403, or Google's 400 of a key that is none."""
    error = _body(response).get("error")
    details = error.get("details") if isinstance(error, dict) else None
    reasons = {d.get("reason") for d in details or [] if isinstance(d, dict)}
    return response.status_code in {401, 403} or "API_KEY_INVALID" in reasons


def message_of(response: Response) -> str:
    """What the API says to a person; empty where it says nothing, or a page of HTML."""
    body = _body(response)
    error = body.get("error")
    holder = error if isinstance(error, dict) else body
    said = next(
        (
            holder[key]
            for key in ("message", "error_description", "detail", "title", "error")
            if isinstance(holder.get(key), str)
        ),
        "",
    )
    details = holder.get("errors") if holder is body else None
    more = [
        str(detail.get("message", detail)) if isinstance(detail, dict) else str(detail)
        for detail in (details if isinstance(details, list) else [])
    ]
    if not body and "html" not in response.headers.get("Content-Type", ""):
        said = response.text
    text = " ".join([said, f"({'; '.join(more)})" if more else ""])
    # Google's messages hold links.
    return " ".join(re.sub(r"<[^>]*>", "", text).split())[:LONGEST_MESSAGE]


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def utc(seconds: float) -> str:
    """Seconds since 1970 as `2026-11-20T12:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _retry_after(value: str | None, now: float) -> float | None:
    """Seconds of a `Retry-After`, which holds seconds or a date; none where it holds neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    # A date without a zone is in UTC.
    at = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max(at.timestamp() - now, 0.0)


def _body(response: Response) -> dict[str, Any]:
    """The answer as an object; empty where it is none."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
