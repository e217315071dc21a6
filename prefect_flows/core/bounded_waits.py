"""Says what a run waits for, and bounds how long Prefect's client waits for its API.

Prefect's client tries each request for a minute, and each event for eight seconds, one after the
other. At the end of a run whose API has gone away, that adds up to a quarter of an hour. Here all
of them together wait as long as the settings say; then each request is tried once, and events are
kept until the API answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from prefect.client import base
from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
from prefect.events import Event
from prefect.events.clients import RETRYABLE_EXCEPTIONS, PrefectEventsClient
from prefect.utilities.math import clamped_poisson_interval

from prefect_flows.core.logger import Logger

SAY_SECONDS = 30.0
# A request that follows another one that failed so shortly before fails too.
AGAIN_SECONDS = 1.0

log: Logger = logging.getLogger("millrace")


@contextmanager
def said_while_waiting(what: str, seconds: float, log: Logger = log) -> Iterator[None]:
    """Say every 30 s what is waited for, and how long that may take."""
    over = threading.Event()
    begun = time.monotonic()

    def say() -> None:
        while not over.wait(SAY_SECONDS):
            waited = time.monotonic() - begun
            log.warning("Waiting for %s: %.0f s of at most %.0f s.", what, waited, seconds)

    thread = threading.Thread(target=say, name="millrace-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class ApiSilent(httpx.NetworkError):
    """The API has not answered for as long as it is waited for; Prefect does not try again."""


class ApiPatience:
    """How long the requests of this process wait together for a Prefect API that does not answer.

    Attributes:
        seconds: from the first request that failed to the last one that is tried again.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._since: float | None = None
        self._said = 0.0
        self._failed = 0.0

    def begin_anew(self) -> None:
        """Wait as long as at first, however long the API has been away."""
        with self._lock:
            self._since = None

    def left(self) -> float:
        """Seconds until nothing is tried again any more; all of them while the API answers."""
        with self._lock:
            waited = 0.0 if self._since is None else time.monotonic() - self._since
        return max(self.seconds - waited, 0.0)

    def is_over(self) -> bool:
        """Whether nothing is tried again any more."""
        return self.left() == 0

    def failed(self) -> bool:
        """Take note of a request that would be tried again; whether none is any more."""
        now = time.monotonic()
        with self._lock:
            self._failed = now
            if self._since is None:
                self._since = self._said = now
            waited = now - self._since
            says = now - self._said >= SAY_SECONDS or waited >= self.seconds
            if says:
                self._said = now
        if says and waited < self.seconds:
            log.warning(
                "Waiting for the Prefect API: %.0f s of at most %.0f s.", waited, self.seconds
            )
        return waited >= self.seconds

    def noting(
        self,
        send: Callable[..., httpx.Response],
        codes: set[int],
        errors: tuple[type[Exception], ...],
    ) -> Callable[..., httpx.Response]:
        """Send, and take note of what came of it; `codes` are those that are tried again."""

        def noted(*arguments: Any, **options: Any) -> httpx.Response:
            self.refuse_in_vain()
            try:
                response = send(*arguments, **options)
            except errors as error:
                self._give_up_in_time(error)
                raise
            self._take(response, codes)
            return response

        return noted

    def noting_async(
        self,
        send: Callable[..., Awaitable[httpx.Response]],
        codes: set[int],
        errors: tuple[type[Exception], ...],
    ) -> Callable[..., Awaitable[httpx.Response]]:
        """The same for the client that is awaited."""

        async def noted(*arguments: Any, **options: Any) -> httpx.Response:
            self.refuse_in_vain()
            try:
                response = await send(*arguments, **options)
            except errors as error:
                self._give_up_in_time(error)
                raise
            self._take(response, codes)
            return response

        return noted

    def refuse_in_vain(self) -> None:
        """Refuse a request that would fail as another did just now, maybe after a minute of trying.

        Raises:
            ApiSilent: nothing is tried again any more, and a request has failed just now.
        """
        if self.is_over() and time.monotonic() - self._failed < AGAIN_SECONDS:
            raise ApiSilent("The API did not answer another request just now.")

    def _give_up_in_time(self, error: BaseException) -> None:
        if self.failed():
            raise ApiSilent(f"{type(error).__name__}: {error}") from error

    def _take(self, response: httpx.Response, codes: set[int]) -> None:
        if response.status_code not in codes:
            self.begin_anew()
        elif self.failed():
            codes.clear()


_patience: ApiPatience | None = None


def bound_api_waits(seconds: float) -> ApiPatience:
    """Let all requests of Prefect's clients in this process wait so long for an API, together."""
    global _patience  # noqa: PLW0603 # Prefect's clients are the process's, too
    if _patience is not None:
        _patience.seconds = seconds
        return _patience
    patience = _patience = ApiPatience(seconds)
    send_sync = PrefectHttpxSyncClient._send_with_retry  # noqa: SLF001 # Prefect has no setting
    send_async = PrefectHttpxAsyncClient._send_with_retry  # noqa: SLF001

    def patient(
        self: PrefectHttpxSyncClient,
        request: Any,
        send: Any,
        send_args: Any,
        send_kwargs: Any,
        retry_codes: set[int],
        retry_exceptions: tuple[type[Exception], ...],
    ) -> Any:
        codes = set(retry_codes)
        noted = patience.noting(send, codes, retry_exceptions)
        return send_sync(self, request, noted, send_args, send_kwargs, codes, retry_exceptions)

    async def patient_async(
        self: PrefectHttpxAsyncClient,
        request: Any,
        send: Any,
        send_args: Any,
        send_kwargs: Any,
        retry_codes: set[int],
        retry_exceptions: tuple[type[Exception], ...],
    ) -> Any:
        codes = set(retry_codes)
        noted = patience.noting_async(send, codes, retry_exceptions)
        return await send_async(
            self, request, noted, send_args, send_kwargs, codes, retry_exceptions
        )

    def short_pause(average_interval: float, clamping_factor: float = 0.3) -> float:
        return min(clamped_poisson_interval(average_interval, clamping_factor), patience.left())

    # Between two attempts at a request.
    base.clamped_poisson_interval = short_pause  # type: ignore[attr-defined]
    _bound_events(patience)
    PrefectHttpxSyncClient._send_with_retry = patient  # type: ignore[assignment,method-assign] # noqa: SLF001
    PrefectHttpxAsyncClient._send_with_retry = patient_async  # type: ignore[assignment,method-assign] # noqa: SLF001
    return patience


def _bound_events(patience: ApiPatience) -> None:
    emit, reconnect = PrefectEventsClient.emit, PrefectEventsClient._reconnect  # noqa: SLF001

    async def patient_emit(self: PrefectEventsClient, event: Event) -> None:
        if patience.is_over():
            # Sent with the next connection, if there is one.
            self._unconfirmed_events.append(event)
            return
        with suppress(ApiSilent):  # kept in the same way
            await emit(self, event)

    async def patient_reconnect(self: PrefectEventsClient) -> None:
        if patience.is_over():
            raise ApiSilent("The API does not answer.")
        try:
            await reconnect(self)
        except RETRYABLE_EXCEPTIONS:
            patience.failed()
            raise

    PrefectEventsClient.emit = patient_emit  # type: ignore[assignment,method-assign]
    PrefectEventsClient._reconnect = patient_reconnect  # type: ignore[method-assign] # noqa: SLF001
