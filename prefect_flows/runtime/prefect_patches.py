"""Performance patches for Prefect's client, for a run that the command line starts."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import certifi
from prefect import Flow
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.settings import PREFECT_API_SSL_CERT_FILE, PREFECT_API_TLS_INSECURE_SKIP_VERIFY

from prefect_flows.transform.monkeypatch import patched


@contextmanager
def patched_prefect() -> Iterator[None]:
    """Apply all patches while the context is open."""
    with share_tls_context(), send_parameters_as_they_are():
        yield


@contextmanager
def share_tls_context() -> Iterator[None]:
    """Let all clients of the Prefect API use the same TLS context.

    A run opens about ten clients. Each would read the certificates of all authorities again, also
    for an API without TLS.
    """
    if PREFECT_API_TLS_INSECURE_SKIP_VERIFY:
        yield
        return
    file = PREFECT_API_SSL_CERT_FILE.value() or certifi.where()
    context = functools.cache(lambda: ssl.create_default_context(cafile=file))

    def with_context(init: Callable[..., None]) -> Callable[..., None]:
        def init_with_context(
            self: Any,
            *arguments: Any,
            httpx_settings: dict[str, Any] | None = None,
            **options: Any,
        ) -> None:
            settings = {"verify": context(), **(httpx_settings or {})}
            init(self, *arguments, httpx_settings=settings, **options)

        return init_with_context

    with (
        patched(PrefectClient, "__init__", with_context(PrefectClient.__init__)),
        patched(SyncPrefectClient, "__init__", with_context(SyncPrefectClient.__init__)),
    ):
        yield


@contextmanager
def send_parameters_as_they_are() -> Iterator[None]:
    """Send the parameters of a flow run, which are JSON already, without converting them to JSON.

    For this alone, Prefect imports FastAPI.
    """
    with patched(Flow, "serialize_parameters", lambda _, parameters: dict(parameters)):
        yield
