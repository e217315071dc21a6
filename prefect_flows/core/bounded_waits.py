"""Limits how long Prefect's client retries while its API is down, and logs that a run waits.

Prefect's client retries each request for a minute and each event for eight seconds, one after the
other. If the API goes down, that adds up to a quarter of an hour at the end of a run. Here, all
requests and events of a process share one time limit, `unreachable_seconds` of the settings. After
that, each request is tried once, and events are kept until the API answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
from prefect.client import base
from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
from prefect.events import Event
from prefect.events.clients import RETRYABLE_EXCEPTIONS, PrefectEventsClient
from prefect.utilities.math import clamped_poisson_interval

from prefect_flows.core.waiting_log import WAIT_LOG_SECONDS, log

# Once the limit is reached, requests fail without being sent for this long after a failed one.
FAIL_FAST_SECONDS = 1.0


class ApiTimeout(httpx.NetworkError):
    """The Prefect API did not answer within the time limit; Prefect's client does not retry."""


class ApiRetryLimit:
    """The time limit that all requests of this process share while the Prefect API is down.

    Attributes:
        seconds: time from the first failed request after which nothing is retried.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._down_since: float | None = None
        self._logged_at = 0.0
        self._failed_at = 0.0

    def reset(self) -> None:
        """Restart the time limit, as after a request that succeeded."""
        with self._lock:
            self._down_since = None

    def seconds_left(self) -> float:
        """Return the seconds until nothing is retried; the whole limit while the API answers."""
        with self._lock:
            waited = 0.0 if self._down_since is None else time.monotonic() - self._down_since
        return max(self.seconds - waited, 0.0)

    def is_over(self) -> bool:
        """Return whether the time limit is reached, so that nothing is retried."""
        return self.seconds_left() == 0

    def record_failure(self) -> bool:
        """Record the failure of a retryable request; return whether the limit is reached."""
        now = time.monotonic()
        with self._lock:
            self._failed_at = now
            if self._down_since is None:
                self._down_since = self._logged_at = now
            waited = now - self._down_since
            log_now = now - self._logged_at >= WAIT_LOG_SECONDS or waited >= self.seconds
            if log_now:
                self._logged_at = now
        if log_now and waited < self.seconds:
            log.warning(
                "Waiting for the Prefect API: %.0f s of at most %.0f s.", waited, self.seconds
            )
        return waited >= self.seconds

    def wrap_send(
        self,
        send: Callable[..., httpx.Response],
        codes: set[int],
        errors: tuple[type[Exception], ...],
    ) -> Callable[..., httpx.Response]:
        """Return a `send` that records each result and stops retries when the limit is reached.

        Args:
            send: sends one request.
            codes: statuses that Prefect's client retries; emptied when the limit is reached.
            errors: exceptions that Prefect's client retries.
        """

        def limited_send(*arguments: Any, **options: Any) -> httpx.Response:
            self._raise_if_just_failed()
            try:
                response = send(*arguments, **options)
            except errors as error:
                self._raise_if_limit_reached(error)
                raise
            self._record_response(response, codes)
            return response

        return limited_send

    def wrap_send_async(
        self,
        send: Callable[..., Awaitable[httpx.Response]],
        codes: set[int],
        errors: tuple[type[Exception], ...],
    ) -> Callable[..., Awaitable[httpx.Response]]:
        """Do the same as `wrap_send` for the asynchronous client."""

        async def limited_send(*arguments: Any, **options: Any) -> httpx.Response:
            self._raise_if_just_failed()
            try:
                response = await send(*arguments, **options)
            except errors as error:
                self._raise_if_limit_reached(error)
                raise
            self._record_response(response, codes)
            return response

        return limited_send

    def _raise_if_just_failed(self) -> None:
        """Refuse a request if another one failed just now: it could hang for its whole timeout.

        Raises:
            ApiTimeout: the limit is reached, and a request failed in the last
                `FAIL_FAST_SECONDS`.
        """
        if self.is_over() and time.monotonic() - self._failed_at < FAIL_FAST_SECONDS:
            raise ApiTimeout("The API did not answer another request just now.")

    def _raise_if_limit_reached(self, error: BaseException) -> None:
        if self.record_failure():
            raise ApiTimeout(f"{type(error).__name__}: {error}") from error

    def _record_response(self, response: httpx.Response, codes: set[int]) -> None:
        if response.status_code not in codes:
            self.reset()
        elif self.record_failure():
            codes.clear()


_patience: ApiRetryLimit | None = None


def limit_api_retries(seconds: float) -> ApiRetryLimit:
    """Patch Prefect's clients so that all their retries in this process share one time limit."""
    global _patience  # noqa: PLW0603 # the patched classes are global as well
    if _patience is not None:
        _patience.seconds = seconds
        return _patience
    patience = _patience = ApiRetryLimit(seconds)
    send_sync = PrefectHttpxSyncClient._send_with_retry  # noqa: SLF001 # Prefect has no setting
    send_async = PrefectHttpxAsyncClient._send_with_retry  # noqa: SLF001

    def send_with_limit(
        self: PrefectHttpxSyncClient,
        request: Any,
        send: Any,
        send_args: Any,
        send_kwargs: Any,
        retry_codes: set[int],
        retry_exceptions: tuple[type[Exception], ...],
    ) -> Any:
        codes = set(retry_codes)
        limited = patience.wrap_send(send, codes, retry_exceptions)
        return send_sync(self, request, limited, send_args, send_kwargs, codes, retry_exceptions)

    async def send_with_limit_async(
        self: PrefectHttpxAsyncClient,
        request: Any,
        send: Any,
        send_args: Any,
        send_kwargs: Any,
        retry_codes: set[int],
        retry_exceptions: tuple[type[Exception], ...],
    ) -> Any:
        codes = set(retry_codes)
        limited = patience.wrap_send_async(send, codes, retry_exceptions)
        return await send_async(
            self, request, limited, send_args, send_kwargs, codes, retry_exceptions
        )

    def limited_backoff(average_interval: float, clamping_factor: float = 0.3) -> float:
        return min(
            clamped_poisson_interval(average_interval, clamping_factor), patience.seconds_left()
        )

    # The client calls it for the pause between two attempts at a request.
    base.clamped_poisson_interval = limited_backoff  # type: ignore[attr-defined]
    _limit_event_retries(patience)
    PrefectHttpxSyncClient._send_with_retry = send_with_limit  # type: ignore[assignment,method-assign] # noqa: SLF001
    PrefectHttpxAsyncClient._send_with_retry = send_with_limit_async  # type: ignore[assignment,method-assign] # noqa: SLF001
    return patience


def _limit_event_retries(patience: ApiRetryLimit) -> None:
    emit, reconnect = PrefectEventsClient.emit, PrefectEventsClient._reconnect  # noqa: SLF001

    async def emit_with_limit(self: PrefectEventsClient, event: Event) -> None:
        if patience.is_over():
            # The client sends these when it connects again.
            self._unconfirmed_events.append(event)
            return
        with suppress(ApiTimeout):  # the client has kept the event
            await emit(self, event)

    async def reconnect_with_limit(self: PrefectEventsClient) -> None:
        if patience.is_over():
            raise ApiTimeout("The API does not answer.")
        try:
            await reconnect(self)
        except RETRYABLE_EXCEPTIONS:
            patience.record_failure()
            raise

    PrefectEventsClient.emit = emit_with_limit  # type: ignore[assignment,method-assign]
    PrefectEventsClient._reconnect = reconnect_with_limit  # type: ignore[method-assign] # noqa: SLF001
