"""Opens BigQuery's client of a target without dbt's project."""

from __future__ import annotations

from google.cloud.bigquery import Client

from prefect_flows.core.google_credentials import build_dbt_credentials, google_credentials
from prefect_flows.core.profiles import Profile


def open_client(profile: Profile) -> Client:
    """Open BigQuery's client as dbt does.

    Raises:
        WarehouseUnreachable: there are no credentials, or the key is not valid.
    """
    from dbt.adapters.bigquery.clients import create_bigquery_client

    google_credentials(profile)
    client: Client = create_bigquery_client(build_dbt_credentials(profile))
    return client
