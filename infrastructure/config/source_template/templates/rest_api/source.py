"""Items of {{ cookiecutter.__words }}, from a REST API.

A load asks for those that changed since the last one.

Source: https://api.example.com/docs (put the API's own documentation here)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dlt
from dlt.extract import DltResource
from dlt.sources.helpers.rest_client.paginators import PageNumberPaginator

from prefect_flows.ingest.rest.client import pages, rest_client
from prefect_flows.ingest.rest.tables import (
    INTEGER,
    TEXT,
    TIMESTAMP,
    Column,
    Table,
    build_resources,
)

PATH = "/items"
PAGE_SIZE = 100
BLOCK = "{{ cookiecutter.__dashed }}-token-<target>"
ACCESS = f"write one that the API accepts: uv run millrace secret {BLOCK}"

# Column → field of an answer, type. A field that is gone, or of another type, is refused.
ITEMS = Table(
    "items",
    ("id",),
    {
        "id": Column("id", INTEGER, required=True),
        "name": Column("name", TEXT, required=True),
        "updated_at": Column("updated_at", TIMESTAMP, required=True),
    },
)
# `millrace check models` reads it.
DECLARED_TABLES = {ITEMS.name: ITEMS.schema}


@dlt.source(
    name="{{ cookiecutter.__source }}",
    schema_contract={"columns": "freeze", "data_type": "freeze"},
)
def {{ cookiecutter.__source }}(
    api_url: str = "https://api.example.com",
    full_refresh: bool = False,
    token: dlt.TSecretStrValue | None = None,
) -> list[DltResource]:
    """Items of an API, merged by their number.

    Args:
        api_url: address of the API.
        full_refresh: ask for all items, whatever was loaded before.
        token: of the API, where it wants one; from the block
            `{{ cookiecutter.__dashed }}-token-<target>`.

    Raises:
        IngestionError: the API does not answer, refuses, or answers in another shape.
    """
    client = rest_client(
        api_url,
        secret=token,
        # Ends with the first page that is empty. dlt has paginators for other ways.
        paginator=PageNumberPaginator(base_page=1, total_path=None),
        access=ACCESS,
    )

    def read() -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        state = dlt.current.source_state()
        newest = None if full_refresh else state.get("updated_at")
        params: dict[str, Any] = {"per_page": PAGE_SIZE}
        if newest is not None:
            # The newest item comes again, and is merged: another may have its instant.
            params["updated_since"] = newest
        for page in pages(client, PATH, params, rows="items"):
            rows = [ITEMS.row(answer, where=f"item {answer.get('id')}") for answer in page]
            newest = max([*([newest] if newest else []), *map(_instant, rows)], default=None)
            yield ITEMS, rows
        state["updated_at"] = newest

    return build_resources(read, [ITEMS])


def _instant(row: dict[str, Any]) -> str:
    """When an item was changed, in UTC, so that texts sort as instants do."""
    return str(row["updated_at"].isoformat(timespec="microseconds"))
