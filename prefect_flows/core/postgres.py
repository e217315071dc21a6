"""Opens connections to a Postgres target without dbt."""

from __future__ import annotations

from typing import Any

import psycopg2

from prefect_flows.core.errors import WarehouseUnreachable
from prefect_flows.core.profiles import Profile

CONNECT_TIMEOUT_SECONDS = 10


def application_name(run_id: str) -> str:
    """Return the name of a run's connections in `pg_stat_activity`, at most 63 bytes."""
    return f"millrace {run_id}"[:63]


def connect(profile: Profile, application_name: str) -> Any:
    """Open a psycopg2 connection to a target.

    Args:
        profile: the target's profile.
        application_name: as `pg_stat_activity` shows it.

    Raises:
        WarehouseUnreachable: the server does not answer, or refuses the credentials.
    """
    given = profile.credentials()
    try:
        return psycopg2.connect(
            host=given["host"],
            port=given["port"],
            user=given["user"],
            password=given.get("password") or None,
            dbname=given["dbname"],
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name=application_name,
            **({"sslmode": given["sslmode"]} if given.get("sslmode") else {}),
        )
    except psycopg2.OperationalError as error:
        raise WarehouseUnreachable(
            f"Cannot connect to the warehouse of target {profile.target!r}: "
            f"{' '.join(str(error).split())}",
            where=profile.address,
            fix=profile.address_hint,
        ) from error
