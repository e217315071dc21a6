"""Google Cloud credentials of a target: key, ADC, metadata server or impersonated account."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect_flows.core.errors import WarehouseUnreachable
from prefect_flows.core.formatting import one_line
from prefect_flows.core.hints import get_hint

if TYPE_CHECKING:
    from dbt.adapters.bigquery.credentials import BigQueryCredentials
    from google.auth.credentials import Credentials

    from prefect_flows.core.profiles import Profile


def build_dbt_credentials(profile: Profile) -> BigQueryCredentials:
    """Build what dbt's adapter knows of a target."""
    from dbt.adapters.bigquery.credentials import BigQueryCredentials

    fields = BigQueryCredentials.translate_aliases(profile.credentials())
    known = {key: value for key, value in fields.items() if key not in ("type", "threads")}
    return BigQueryCredentials.from_dict(known)


def google_credentials(profile: Profile) -> Credentials:
    """Build the Google credentials of a target with dbt's adapter, for both dbt and dlt.

    Raises:
        WarehouseUnreachable: there are no credentials, or the key is not valid.
    """
    from dbt.adapters.bigquery.credentials import create_google_credentials
    from dbt_common.exceptions import DbtBaseException
    from google.auth.exceptions import GoogleAuthError

    try:
        return create_google_credentials(build_dbt_credentials(profile))
    except (GoogleAuthError, DbtBaseException) as error:
        raise WarehouseUnreachable(
            f"Cannot connect to the warehouse of target {profile.target!r}: {one_line(str(error))}",
            where=profile.address,
            fix=get_hint(error, profile),
        ) from error
