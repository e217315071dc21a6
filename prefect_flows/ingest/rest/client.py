"""REST API client for sources: pagination, authentication, retries and rate limits.

    client = rest_client(api_url, secret=token, paginator=HeaderLinkPaginator())
    for rows in pages(client, "/search/repositories", {"q": "…"}, rows="items"):
        ...

The client is dlt's `RESTClient` over dlt's session. Every call ends in one of three ways:

- a complete JSON response;
- a retryable `IngestionError` for a transient failure: no connection, a timeout, a 5xx, a truncated
  response, or a rate limit longer than the retry policy waits for;
- an `ApiError` for a permanent failure, with the API's message.

The secret is sent in a header, to the API's own address only, and removed from messages of the API.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from dlt.sources.helpers.requests import Session
from dlt.sources.helpers.rest_client.auth import APIKeyAuth, BearerTokenAuth
from dlt.sources.helpers.rest_client.client import RESTClient
from dlt.sources.helpers.rest_client.paginators import BasePaginator, SinglePagePaginator
from requests import Response

from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.ingest.rest.transport import (
    ApiError,
    RetryPolicy,
    Transport,
    format_request,
    run_logger,
)

__all__ = [
    "ApiError",
    "Page",
    "RetryPolicy",
    "get_rows",
    "pages",
    "rest_client",
    "run_logger",
    "unexpected_shape_error",
]


def rest_client(
    api_url: str,
    *,
    secret: str | None = None,
    secret_header: str = "Authorization",  # noqa: S107 (a header's name)
    headers: Mapping[str, str] | None = None,
    paginator: BasePaginator | None = None,
    retry_policy: RetryPolicy | None = None,
    access: str = "see who may ask the API, and with which token",
    before_call: Callable[[], None] | None = None,
) -> RESTClient:
    """Build a client for one API.

    Args:
        api_url: base URL; no call goes to another host, not even after a redirect.
        secret: a token or key; sent as `Bearer …` in `Authorization`, unchanged in another header.
        secret_header: the header that carries it, such as `X-Goog-Api-Key`.
        headers: sent with each call; nothing secret.
        paginator: how to get the next page; a single page by default.
        retry_policy: how often and how long a call is retried.
        access: how to fix a refused secret (401, 403), in a sentence.
        before_call: called before each attempt; an exception it raises ends the call.

    Raises:
        ConfigurationError: the URL is not an http or https URL, or the secret has invalid
            characters.
    """
    parts = urlsplit(api_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ConfigurationError(
            "The address of the API is not an http or https URL, or contains credentials.",
            where="the parameter api_url",
            fix="give an address such as https://api.example.com",
        )
    if secret is not None and not re.fullmatch("[!-~]+", secret):
        # The error of requests would show it.
        raise ConfigurationError(
            "The secret is invalid: it is empty, or has spaces, line breaks or "
            "letters outside ASCII.",
            where=f"the header {secret_header}",
            fix=access,
        )
    retry_policy = retry_policy or RetryPolicy()
    session = Session(timeout=retry_policy.timeout, raise_for_status=False)
    transport = Transport(api_url, secret, retry_policy, access, before_call)
    session.adapters.clear()
    session.mount("", transport)
    return RESTClient(
        api_url,
        headers=dict(headers or {}),
        # Not in `headers`, which dlt logs at debug level.
        auth=_build_auth(secret, secret_header),
        paginator=paginator or SinglePagePaginator(),
        session=session,
    )


class Page(list[dict[str, Any]]):
    """Rows of one page of a response.

    Attributes:
        body: the complete response, which may hold totals beside the rows.
    """

    def __init__(self, rows: list[dict[str, Any]], body: dict[str, Any]) -> None:
        super().__init__(rows)
        self.body = body


def pages(
    client: RESTClient, path: str, params: Mapping[str, Any] | None = None, *, rows: str
) -> Iterator[Page]:
    """Yield the rows of each page, following the client's paginator.

    Args:
        client: a client built by `rest_client`.
        path: path below the base URL.
        params: query parameters of the first page.
        rows: field of the response that holds the rows, a list of objects.

    Raises:
        IngestionError: the API does not answer, refuses, or its response has an unexpected shape.
    """
    for page in client.paginate(path, params=dict(params or {}), data_selector=rows):
        yield get_rows(page.response, rows)


def get_rows(response: Response, rows: str) -> Page:
    """Return the rows of one response.

    Raises:
        IngestionError: the response has an unexpected shape. dlt would treat a missing field as an
            empty page, and load nothing.
    """
    body = response.json()
    found = body.get(rows) if isinstance(body, dict) else None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise unexpected_shape_error(response, f"{rows!r} is not a list of objects")
    return Page(found, body)


def unexpected_shape_error(response: Response, fault: str) -> IngestionError:
    """Return the error for a response that does not match the API's documentation."""
    body = response.json()
    seen = f"fields {', '.join(body)}" if isinstance(body, dict) else f"a {type(body).__name__}"
    return IngestionError(
        f"The API returned an unexpected response: {fault} (the answer is {seen}).",
        where=format_request(response.request),
        fix="compare the API's documentation with the source's source.py",
    )


def _build_auth(secret: str | None, header: str) -> BearerTokenAuth | APIKeyAuth | None:
    if secret is None:
        return None
    if header == "Authorization":
        return BearerTokenAuth(token=secret)
    return APIKeyAuth(name=header, api_key=secret, location="header")
