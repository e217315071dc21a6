"""Reads error responses of REST APIs: rate limits, Retry-After, error reason and message.

Sources: https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api,
https://developers.google.com/youtube/v3/docs/errors, RFC 9110 (Retry-After), RFC 9457 (problem
details).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from requests import Response

from prefect_flows.core.formatting import one_line

# Google's reasons for limits per minute, which are worth waiting for, and for limits per day.
MINUTE_REASONS = {"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"}
DAILY_LIMIT_REASONS = {"quotaExceeded", "dailyLimitExceeded"}
MAX_MESSAGE_LENGTH = 500
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class RateLimit:
    """Seconds to wait for a rate limit; None if the response does not say."""

    seconds: float | None


def get_rate_limit(response: Response, reason: str | None, now: float) -> RateLimit | None:
    """Return the rate limit that a response reports, or None.

    Args:
        response: a response of status 400 or higher.
        reason: what `get_error_code` returned for it.
        now: Unix time in seconds.
    """
    headers, status = response.headers, response.status_code
    if status not in {403, 429, 503} or reason in DAILY_LIMIT_REASONS:
        return None
    retry_after = _retry_after(headers.get("Retry-After"), now)
    if retry_after is not None:
        return RateLimit(retry_after)
    is_exhausted = headers.get("X-RateLimit-Remaining", "").strip() == "0"
    reset = headers.get("X-RateLimit-Reset", "").strip()
    if (is_exhausted or status == 429) and reset.isdecimal():
        # Whole seconds, and clocks differ: one more second is cheaper than another refused call.
        return RateLimit(max(int(reset) - now, 0) + 1)
    # GitHub's secondary limits may have no header, only the URL of their documentation.
    page = str(_body(response).get("documentation_url", ""))
    if status == 429 or is_exhausted or reason in MINUTE_REASONS or "rate-limit" in page:
        return RateLimit(None)
    return None


def get_error_code(response: Response) -> str | None:
    """Return the API's error code: Google's `errors[0].reason`, GitHub's `errors[0].code`."""
    body = _body(response)
    error = body.get("error")
    error_object = error if isinstance(error, dict) else body
    errors = error_object.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else {}
    found = (first.get("reason") or first.get("code")) if isinstance(first, dict) else None
    found = found or error_object.get("status") or (error if isinstance(error, str) else None)
    return found if isinstance(found, str) else None


def is_about_access(response: Response) -> bool:
    """Return whether the API refused the secret: 401, 403, or Google's 400 for an invalid key."""
    error = _body(response).get("error")
    details = error.get("details") if isinstance(error, dict) else None
    reasons = {d.get("reason") for d in details or [] if isinstance(d, dict)}
    return response.status_code in {401, 403} or "API_KEY_INVALID" in reasons


def get_error_message(response: Response) -> str:
    """Return the API's error message; empty if there is none, or if it is an HTML page."""
    body = _body(response)
    error = body.get("error")
    error_object = error if isinstance(error, dict) else body
    text_part = next(
        (
            error_object[key]
            for key in ("message", "error_description", "detail", "title", "error")
            if isinstance(error_object.get(key), str)
        ),
        "",
    )
    details = error_object.get("errors") if error_object is body else None
    detail_messages = [
        str(detail.get("message", detail)) if isinstance(detail, dict) else str(detail)
        for detail in (details if isinstance(details, list) else [])
    ]
    if not body and "html" not in response.headers.get("Content-Type", ""):
        text_part = response.text
    text = " ".join([text_part, f"({'; '.join(detail_messages)})" if detail_messages else ""])
    # Google's messages contain HTML links.
    return one_line(re.sub(r"<[^>]*>", "", text), MAX_MESSAGE_LENGTH)


def get_origin(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def format_utc(seconds: float) -> str:
    """Format Unix seconds as `2026-11-20T12:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds of a `Retry-After` header (seconds or a date); None if it is neither."""
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
    """Return the response's JSON object; empty if it has none."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
