"""dlt destination and load settings (parallelism, file size) of a target, from dbt's blocks."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dlt
import pyarrow as pa
import sqlalchemy
from dlt.common.destination import Destination
from dlt.common.runtime import signals

from prefect_flows.core.environment import set_variables
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.google_credentials import google_credentials
from prefect_flows.core.profiles import Profile
from prefect_flows.ingest.destinations.postgres import Postgres
from prefect_flows.transform.monkeypatch import patched

# The files of a table are loaded in parallel.
ROWS_PER_PARQUET_FILE = 500_000
# Per source; each worker opens a connection.
LOAD_WORKERS = 2


@contextmanager
def configure_dlt(profile: Profile) -> Iterator[None]:
    """Configure dlt, environment variables and Arrow memory while sources load into a target.

    The settings hold for the whole process: sources that load in parallel load into the same
    target. While dlt loads in the main thread, it handles Ctrl-C and SIGTERM, then passes them on
    to the project's handlers.
    """
    variables = {"RUNTIME__DLTHUB_TELEMETRY": "false"}
    # Google's client reads another endpoint from a variable; dlt has no setting for it.
    if (endpoint := profile.output.get("api_endpoint")) is not None:
        variables["BIGQUERY_EMULATOR_HOST"] = str(endpoint)
    # dlt starts its telemetry on first use, which includes reading its settings.
    with set_variables(variables), _reraise_signals():
        dlt.config["normalize.parquet_normalizer.add_dlt_load_id"] = True
        # One resource after the other, so that each has the source's connection to itself.
        dlt.config["extract.next_item_mode"] = "fifo"
        dlt.config["data_writer.file_max_items"] = ROWS_PER_PARQUET_FILE
        dlt.config["load.workers"] = LOAD_WORKERS
        # dlt must not retry a failed job, since its rows may have arrived. The stage retries
        # instead, and first removes what a failed attempt left.
        dlt.config["load.raise_on_max_retries"] = 1
        logging.getLogger("dlt").addFilter(_is_not_hint_warning)
        before = pa.default_memory_pool()
        # The other pools keep freed memory: a third more memory for the same speed.
        pa.set_memory_pool(pa.system_memory_pool())
        try:
            yield
        finally:
            pa.set_memory_pool(before)


def _is_not_hint_warning(record: logging.LogRecord) -> bool:
    """Filter out dlt's warning that a source's column hints differ from Arrow's."""
    return "several column hints were different" not in record.getMessage()


@contextmanager
def _reraise_signals() -> Iterator[None]:
    """Raise a signal that dlt received again once the previous handlers are back.

    dlt checks for signals only between files and batches, and forgets one when the step ends. A
    signal after the last check would be lost.
    """
    clear = signals._clear_signals  # noqa: SLF001 # dlt has no public hook

    def reraise() -> None:
        received = signals._received_signal  # noqa: SLF001
        clear()
        if received:
            signal.raise_signal(received)

    with patched(signals, clear.__name__, reraise):
        yield


def build_destination(profile: Profile) -> Destination[Any, Any]:
    """Build the dlt destination of a target, from the same credentials as dbt.

    Raises:
        ConfigurationError: sources cannot be loaded into a warehouse of the target's type.
    """
    options: dict[str, Any] = {
        # Keeps the two underscores of `raw_<owner>__<name>`.
        "enable_dataset_name_normalization": False,
        # Replaces the rows in one transaction: views on the table stay, and readers see either the
        # old or the new rows.
        "replace_strategy": "insert-from-staging",
    }
    if profile.warehouse == "postgres":
        url = postgres_url(profile)
        return Postgres(url.render_as_string(hide_password=False), **options)
    if profile.warehouse == "bigquery":
        output = profile.credentials()
        options |= {"project_id": output["project"], "location": output["location"]}
        return dlt.destinations.bigquery(_google_credentials(profile), **options)
    raise ConfigurationError(
        f"Sources cannot be loaded into a warehouse of type {profile.warehouse!r}.",
        where=f"target {profile.target!r}",
        fix="choose a target of type postgres or bigquery",
    )


def postgres_url(profile: Profile) -> sqlalchemy.URL:
    """Build the connection URL of a Postgres target, with its password, for libpq and dlt."""
    output = profile.credentials()
    query = {key: str(output[key]) for key in ("sslmode", "connect_timeout") if key in output}
    return sqlalchemy.URL.create(
        "postgresql",
        username=output["user"],
        # dlt requires a password; libpq treats an empty one as none (.pgpass, trust).
        password=output["password"],
        host="localhost",
        port=output["port"],
        database=output["dbname"],
        query=query | {"host": output["host"]},
    )


def _google_credentials(profile: Profile) -> Any:
    """Build a target's Google credentials for dlt.

    dlt's own parser accepts a key or a login only, and refuses the service account of a machine.
    """
    from dlt.common.configuration.specs.gcp_credentials import (
        GcpDefaultCredentials,
        GcpServiceAccountCredentials,
    )

    credentials = GcpServiceAccountCredentials(project_id=profile.output["project"])
    GcpDefaultCredentials.parse_native_representation(credentials, google_credentials(profile))
    return credentials
