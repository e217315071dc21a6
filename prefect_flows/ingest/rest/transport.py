"""HTTP transport of the REST client: retries, timeouts, backoff and rate limit waits.

dlt's own retrying session knows neither the reset time of a rate limit nor a 200 response that is
cut off or holds no JSON, sends a secret header to another host on a redirect, and raises errors of
`requests`. Therefore the retry policy is in the transport below the session.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError, ContentDecodingError, SSLError, Timeout
from requests.exceptions import ConnectionError as NoConnection

from prefect_flows.core.errors import IngestionError
from prefect_flows.core.failure_class import root_cause
from prefect_flows.core.logger import Logger
from prefect_flows.ingest.rest.responses import (
    format_utc,
    get_error_code,
    get_error_message,
    get_origin,
    get_rate_limit,
    is_about_access,
)

RETRYABLE_STATUSES = {408, *range(500, 600)} - {501}  # 501: not implemented


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long one call is retried.

    Attributes:
        attempts: attempts of a call that fails for a transient cause.
        first_delay: seconds before the second attempt; the delay doubles with each further one.
        timeout: seconds to connect, and seconds without a byte of the response.
        longest_wait: seconds that one call waits for rate limits, in total.
        limit_delay: first delay in seconds for a rate limit that does not say how long.
    """

    attempts: int = 4
    first_delay: float = 1.0
    timeout: tuple[float, float] = (10.0, 60.0)
    longest_wait: float = 300.0
    limit_delay: float = 60.0


class ApiError(IngestionError):
    """The API refuses the call permanently.

    Attributes:
        status: the HTTP status.
        reason: the API's error code, such as `quotaExceeded`; None if it has none.
    """

    def __init__(self, what: str, *, where: str, fix: str, status: int, reason: str | None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.status = status
        self.reason = reason


def run_logger() -> Logger:
    """Return the logger of the Prefect run, or a standard one outside a run."""
    # Imported here: `millrace check` reads what a source declares, and needs no Prefect.
    from prefect import get_run_logger
    from prefect.exceptions import MissingContextError

    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("millrace.rest")


def format_request(request: PreparedRequest) -> str:
    """Return method and URL of a request, without its query."""
    return f"{request.method} {(request.url or '').partition('?')[0]}"


class TransientError(Exception):
    """An attempt failed for a transient cause, named in the message."""


class _RateLimited(Exception):
    """The API asks to wait; `seconds` is None if it does not say how long."""

    def __init__(self, description: str, seconds: float | None) -> None:
        super().__init__(description)
        self.seconds = seconds


class Transport(HTTPAdapter):
    """HTTP adapter that retries each request as its retry policy says."""

    def __init__(
        self,
        api_url: str,
        secret: str | None,
        retry_policy: RetryPolicy,
        access: str,
        before_call: Callable[[], None] | None,
    ) -> None:
        super().__init__()
        self._origin = get_origin(api_url)
        self._secret = secret
        self._retry_policy = retry_policy
        self._access = access
        self._before_call = before_call or (lambda: None)

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        """Send one request, with retries.

        Raises:
            IngestionError: the retry policy ended without a complete response.
            ApiError: the API refuses the call.
        """
        where, policy = format_request(request), self._retry_policy
        if get_origin(request.url or "") != self._origin:
            raise IngestionError(
                f"The API links or redirects to another host than its own, {self._origin}: it is "
                "not followed, since the secret would go there too.",
                where=where,
                fix="correct the parameter api_url, if the API has moved",
            )
        failures, limits, waited = 0, 0, 0.0
        while True:
            self._before_call()
            try:
                return self._send_once(request, *args, **options)
            except TransientError as fault:
                failures += 1
                delay = policy.first_delay * 2 ** (failures - 1)
                if failures >= policy.attempts:
                    raise IngestionError(
                        f"The API failed {failures} times in a row, last error: {fault}.",
                        where=where,
                        fix="run it again when the API answers; nothing of this load was kept",
                        retryable=True,
                    ) from fault
                description = f"{fault}; try {failures + 1} of {policy.attempts} in {delay:g} s"
            except _RateLimited as limit:
                if limit.seconds is None:
                    delay = policy.limit_delay * 2**limits
                else:
                    # An API that keeps answering 0 must not be called without a pause.
                    delay = max(limit.seconds, 0.1 * 2**limits)
                limits, waited = limits + 1, waited + delay
                if waited > policy.longest_wait:
                    self._raise_rate_limit_error(where, limit, delay)
                description = f"{limit}; retrying at {format_utc(time.time() + delay)}"
            run_logger().warning("%s: %s.", where, description)
            time.sleep(delay)

    def _send_once(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        try:
            response = super().send(request, *args, **options)
            # Reading the whole body raises here if the connection is lost half way.
            _ = response.content
        except SSLError as error:
            raise IngestionError(
                f"No safe connection to the API: {self._without_secret(_root_cause_text(error))}.",
                where=format_request(request),
                fix="correct the certificates of this machine, or the parameter api_url",
            ) from error
        except Timeout as error:
            connect, read = self._retry_policy.timeout
            raise TransientError(
                f"no answer ({connect:g} s to connect, {read:g} s to go on)"
            ) from error
        except NoConnection as error:
            raise TransientError(
                f"no connection ({self._without_secret(_root_cause_text(error))})"
            ) from error
        except (ChunkedEncodingError, ContentDecodingError) as error:
            raise TransientError(f"its answer was truncated ({type(error).__name__})") from error
        self._check_response(request, response)
        return response

    def _check_response(self, request: PreparedRequest, response: Response) -> None:
        """Raise the error that the response stands for; return if it is good."""
        status = response.status_code
        if status < 400:
            self._check_is_json(response)
            return
        reason = get_error_code(response)
        message = get_error_message(response)
        description = f"{status} {response.reason}" + (f": {message}" if message else "")
        description = self._without_secret(description)
        limit = get_rate_limit(response, reason, time.time())
        if limit is not None:
            raise _RateLimited(description, limit.seconds)
        if status in RETRYABLE_STATUSES:
            raise TransientError(description)
        raise ApiError(
            f"The API refuses the call: {description}",
            where=format_request(request),
            fix=self._access
            if is_about_access(response)
            else "correct the parameters of the source, or its source.py where the API changed",
            status=status,
            reason=reason,
        )

    def _check_is_json(self, response: Response) -> None:
        if response.is_redirect or response.status_code == 204:
            return
        try:
            response.json()
        except ValueError as error:
            kind = response.headers.get("Content-Type", "no type named")
            size = len(response.content)
            raise TransientError(
                f"its answer is not complete JSON ({size:,} bytes of {kind})"
            ) from error

    def _raise_rate_limit_error(self, where: str, limit: _RateLimited, delay: float) -> NoReturn:
        until, longest = format_utc(time.time() + delay), self._retry_policy.longest_wait
        raise IngestionError(
            f"The API's rate limit is reached ({limit}), until {until}; a call waits no longer "
            f"than {longest:g} s.",
            where=where,
            fix=f"run it again after {until}; {self._access}",
            retryable=True,
        ) from limit

    def _without_secret(self, text: str) -> str:
        return text.replace(self._secret, "***") if self._secret else text


def _root_cause_text(error: BaseException) -> str:
    """Format an error's root cause: `ConnectionRefusedError: [Errno 111] Connection refused`."""
    first = root_cause(error)
    return f"{type(first).__name__}: {first}"
