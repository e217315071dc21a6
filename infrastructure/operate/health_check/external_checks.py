"""Check what is outside the Prefect API: warehouse, state store, disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infrastructure.operate.health_check.check_result import Check, Status
from prefect_flows.core.errors import WarehouseUnreachable
from prefect_flows.core.formatting import one_line
from prefect_flows.core.hints import get_hint
from prefect_flows.core.names import SETUP_COMMAND
from prefect_flows.notifications.outbox import Outbox
from prefect_flows.state.incidents import load_open_incidents
from prefect_flows.state.store import StateStore

if TYPE_CHECKING:
    from prefect_flows.core.profiles import Profile

GIB = 1024**3
# A year of flights with its tables, logs and artifacts takes less than 1 GiB.
LOW_DISK_BYTES = 2 * GIB
CRITICAL_DISK_BYTES = GIB // 4


def check_warehouse(profile: Profile, seconds: float) -> Check:
    """Connect with dbt's adapter and the target's profile, and run `select 1`.

    `dbt debug` would parse the project first, and dbt cannot run twice concurrently in one process.
    """
    ask = {"postgres": _ask_postgres, "bigquery": _ask_bigquery}[profile.warehouse]
    try:
        ask(profile, seconds)
    except WarehouseUnreachable as error:
        seen = f"{error.what} ({profile.address})"
        return Check("warehouse", profile.target, Status.FAILED, seen, error.fix)
    return Check("warehouse", profile.target, Status.OK, f"{profile.address} answers")


def _ask_postgres(profile: Profile, seconds: float) -> None:
    import psycopg2
    from dbt.adapters.contracts.connection import Connection, Identifier
    from dbt.adapters.postgres.connections import PostgresConnectionManager, PostgresCredentials
    from dbt_common.exceptions import DbtBaseException

    wanted = {"connect_timeout": max(2, int(seconds)), "retries": 0}
    credentials = PostgresCredentials.from_dict(_fields(PostgresCredentials, profile) | wanted)
    connection = Connection(
        type=Identifier("postgres"), name="healthcheck", credentials=credentials
    )
    try:
        PostgresConnectionManager.open(connection)  # type: ignore[no-untyped-call]
        with closing(connection.handle) as handle, handle.cursor() as cursor:
            cursor.execute("select 1")
    except (DbtBaseException, psycopg2.Error) as error:
        raise _unreachable(profile, error) from error


def _ask_bigquery(profile: Profile, seconds: float) -> None:
    from dbt.adapters.bigquery.clients import create_bigquery_client
    from dbt.adapters.bigquery.credentials import BigQueryCredentials
    from dbt_common.exceptions import DbtBaseException
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.bigquery.retry import DEFAULT_RETRY
    from requests.exceptions import RequestException

    from prefect_flows.core.google_credentials import google_credentials

    # dbt does not report why credentials are missing; this raises an error that does.
    google_credentials(profile)
    credentials = BigQueryCredentials.from_dict(_fields(BigQueryCredentials, profile))
    try:
        with closing(create_bigquery_client(credentials)) as client:
            retry = DEFAULT_RETRY.with_timeout(seconds)
            job = client.query("select 1", retry=retry, timeout=seconds, job_retry=None)
            job.result(retry=retry, timeout=seconds)
    except (
        DbtBaseException,
        GoogleAPIError,
        GoogleAuthError,
        RequestException,
        TimeoutError,
    ) as error:
        raise _unreachable(profile, error) from error


def _fields(credentials: Any, profile: Profile) -> dict[str, Any]:
    fields = credentials.translate_aliases(profile.credentials())
    return {key: value for key, value in fields.items() if key not in ("type", "threads")}


def _unreachable(profile: Profile, error: Exception) -> WarehouseUnreachable:
    return WarehouseUnreachable(
        f"cannot be used: {one_line(str(error))}",
        where=profile.address,
        fix=get_hint(error, profile),
    )


def check_state_store(store: StateStore, targets: Sequence[str]) -> Iterator[Check]:
    """Check the state store, and count unsent notifications and open incidents; read only."""
    target_names = store.names("targets")
    yield Check(
        "state store", "", Status.OK, f"{store.url} answers, {len(target_names)} target(s) in it"
    )
    for target in targets:
        yield _notices(store, target)


def _notices(store: StateStore, target: str) -> Check:
    """Check for open incidents and unsent notifications."""
    broken = f"{len(load_open_incidents(store, target))} open incident(s)"
    outbox = Outbox.read(store, target)
    if not outbox.waiting:
        return Check("notices", target, Status.OK, f"none unsent; {broken}")
    why = {name: why for waiting in outbox.waiting for name, why in waiting.unsent.items()}
    first = outbox.waiting[0].notice.at
    seen = (
        f"{len(outbox.waiting) + outbox.given_up} unsent since {first:%Y-%m-%d %H:%M} UTC: "
        + "; ".join(f"{name}: {said}" for name, said in why.items())
        + f"; {broken}"
    )
    fix = (
        f"correct dbt_target_notices.{target} of Terraform's outputs and: {SETUP_COMMAND} --target "
        f"{target}; the next run of the target sends them"
    )
    return Check("notices", target, Status.WARNING, seen, fix)


def check_disk(local_dir: Path) -> Check:
    """Check the free disk space of this machine."""
    existing = next(folder for folder in (local_dir, *local_dir.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    seen = f"{free / GIB:.1f} GiB free at {existing}"
    if free >= LOW_DISK_BYTES:
        return Check("disk", "", Status.OK, seen)
    status = Status.FAILED if free < CRITICAL_DISK_BYTES else Status.WARNING
    fix = f"make room there (du -xh -d 2 {existing} | sort -h), or move it: MILLRACE_LOCAL_DIR"
    return Check("disk", "", status, seen, fix)
