"""Choose the warehouse class for a target."""

from __future__ import annotations

from infrastructure.ci.pull_request.warehouse import Limits, Warehouse
from prefect_flows.core.profiles import Profile


def get_warehouse(profile: Profile, limits: Limits) -> Warehouse:
    """Return the warehouse of a target; import only the client library that it needs."""
    if profile.warehouse == "bigquery":
        from infrastructure.ci.pull_request.bigquery_warehouse import BigQueryWarehouse

        return BigQueryWarehouse(profile, limits)
    from infrastructure.ci.pull_request.postgres_warehouse import PostgresWarehouse

    return PostgresWarehouse(profile, limits)
