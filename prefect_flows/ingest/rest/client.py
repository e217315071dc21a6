"""What sources of REST APIs share: a client that is patient and says why it fails.

    client = rest_client(api_url, secret=token, paginator=HeaderLinkPaginator())
    for rows in pages(client, "/search/repositories", {"q": "…"}, rows="items"):
        ...

The client is dlt's `RESTClient` over dlt's session. Every call of it ends in one of three ways:

- a whole answer of JSON;
- an `IngestionError` that is retryable, since no connection, no answer in time, a 5xx, an answer
  that broke off, or a rate limit longer than the patience may pass;
- an `ApiError`, which does not pass, with what the API says.

A secret goes into a header, to the API's own address alone, and is taken out of what an API says.
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
    place_of,
    run_logger,
)

__all__ = [
    "ApiError",
    "Page",
    "RetryPolicy",
    "other_shape",
    "pages",
    "rest_client",
    "rows_of",
    "run_logger",
]


def rest_client(
    api_url: str,
    *,
    secret: str | None = None,
    secret_header: str = "Authorization",  # noqa: S107 (a header's name)
    headers: Mapping[str, str] | None = None,
    paginator: BasePaginator | None = None,
    patience: RetryPolicy | None = None,
    access: str = "see who may ask the API, and with which token",
    before_call: Callable[[], None] | None = None,
) -> RESTClient:
    """A client of one API.

    Args:
        api_url: its address; no call leaves for another one, not even after a redirect.
        secret: a token or key; as `Bearer …` in `Authorization`, as it is in another header.
        secret_header: the header that carries it, such as `X-Goog-Api-Key`.
        headers: sent with each call; nothing secret.
        paginator: how pages follow each other; one page by default.
        patience: how long a call is tried.
        access: what fixes a refusal of the secret (401, 403), in a sentence.
        before_call: called before each try, and ends the call by what it raises.

    Raises:
        ConfigurationError: the address is none, or the secret cannot be one.
    """
    parts = urlsplit(api_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ConfigurationError(
            "The address of the API is no http or https URL, or carries credentials.",
            where="the parameter api_url",
            fix="give an address such as https://api.example.com",
        )
    if secret is not None and not re.fullmatch("[!-~]+", secret):
        # requests would repeat it in its own error.
        raise ConfigurationError(
            "The secret of the API cannot be one: it is empty, or has spaces, line breaks or "
            "letters outside ASCII.",
            where=f"the header {secret_header}",
            fix=access,
        )
    patience = patience or RetryPolicy()
    session = Session(timeout=patience.timeout, raise_for_status=False)
    transport = Transport(api_url, secret, patience, access, before_call)
    session.adapters.clear()
    session.mount("", transport)
    return RESTClient(
        api_url,
        headers=dict(headers or {}),
        # An object, and no header of the client: dlt logs those when it is told to log all.
        auth=_auth(secret, secret_header),
        paginator=paginator or SinglePagePaginator(),
        session=session,
    )


class Page(list[dict[str, Any]]):
    """The rows of a page.

    Attributes:
        body: the whole answer, which may hold totals beside its rows.
    """

    def __init__(self, rows: list[dict[str, Any]], body: dict[str, Any]) -> None:
        super().__init__(rows)
        self.body = body


def pages(
    client: RESTClient, path: str, params: Mapping[str, Any] | None = None, *, rows: str
) -> Iterator[Page]:
    """The rows of each page, as the client's paginator turns them.

    Args:
        client: made by `rest_client`.
        path: below the API's address.
        params: of the first page's query.
        rows: the field of an answer that holds its rows, a list of objects.

    Raises:
        IngestionError: the API does not answer, refuses, or answers in another shape.
    """
    for page in client.paginate(path, params=dict(params or {}), data_selector=rows):
        yield rows_of(page.response, rows)


def rows_of(response: Response, rows: str) -> Page:
    """The rows of one answer.

    Raises:
        IngestionError: it has another shape. dlt takes a field that is gone for a page without
            rows, and would load nothing.
    """
    body = response.json()
    found = body.get(rows) if isinstance(body, dict) else None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise other_shape(response, f"{rows!r} is no list of objects")
    return Page(found, body)


def other_shape(response: Response, fault: str) -> IngestionError:
    """The error of an answer that the API's documentation does not describe."""
    body = response.json()
    seen = f"fields {', '.join(body)}" if isinstance(body, dict) else f"a {type(body).__name__}"
    return IngestionError(
        f"The API answers in another shape than before: {fault} (the answer is {seen}).",
        where=place_of(response.request),
        fix="compare the API's documentation with the source's source.py",
    )


def _auth(secret: str | None, header: str) -> BearerTokenAuth | APIKeyAuth | None:
    if secret is None:
        return None
    if header == "Authorization":
        return BearerTokenAuth(token=secret)
    return APIKeyAuth(name=header, api_key=secret, location="header")
