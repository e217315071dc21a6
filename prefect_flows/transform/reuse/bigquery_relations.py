"""Reads the state of BigQuery tables: when each was created and last modified."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from google.api_core.exceptions import ClientError, GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.cloud.bigquery import Client

from prefect_flows.core.errors import WarehouseUnreachable
from prefect_flows.core.hints import get_hint
from prefect_flows.transform.session import DbtSession

MAX_PARALLEL_REQUESTS = 8


def read_bigquery(session: DbtSession, nodes: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the state of each table.

    Raises:
        WarehouseUnreachable: BigQuery does not answer.
    """
    with session.connection() as client:
        try:
            return _read(client, nodes)
        except (GoogleAPIError, GoogleAuthError, requests.RequestException) as error:
            raise WarehouseUnreachable(
                f"Cannot read from BigQuery which tables changed: {' '.join(str(error).split())}",
                where=session.profile.address,
                fix=get_hint(error, session.profile),
            ) from error


def _read(client: Client, nodes: Mapping[str, Any]) -> dict[str, str | None]:
    def read(node: Any) -> str | None:
        name = getattr(node, "identifier", None) or node.alias
        try:
            table = client.get_table(f"{node.database}.{node.schema}.{name}")
        except ClientError:
            return None  # missing, a wildcard table, or no permission
        if table.table_type == "VIEW" and str(node.resource_type) == "source":
            return None
        # A created table is a new one, even if it has the same rows.
        return f"{table.created} {table.modified}"

    with ThreadPoolExecutor(MAX_PARALLEL_REQUESTS) as pool:
        return dict(zip(nodes, pool.map(read, nodes.values()), strict=True))
