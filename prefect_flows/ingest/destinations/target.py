"""Where sources are loaded to: a target's dlt destination, from the same blocks as dbt."""

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

from prefect_flows.core.environment import variables_set
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.google_credentials import google_credentials
from prefect_flows.core.profiles import Profile
from prefect_flows.ingest.destinations.postgres import Postgres
from prefect_flows.transform.monkeypatch import replaced

# Rows of a Parquet file. The files of a table are loaded side by side.
ROWS_OF_A_FILE = 500_000
# Files that are loaded at once, of one source: as many connections.
FILES_AT_ONCE = 2


@contextmanager
def loading_into(profile: Profile) -> Iterator[None]:
    """What dlt is told by its configuration and by variables, for as long as it loads.

    They hold for the process: all that loads side by side loads into the same target. While dlt
    loads in the main thread, it hears Ctrl-C and SIGTERM instead of us, and hands them back.
    """
    variables = {"RUNTIME__DLTHUB_TELEMETRY": "false"}
    # Google's client is told of another endpoint by a variable; dlt has no setting for it.
    if (endpoint := profile.output.get("api_endpoint")) is not None:
        variables["BIGQUERY_EMULATOR_HOST"] = str(endpoint)
    # dlt starts its telemetry when it is first asked for anything, its settings included.
    with variables_set(variables), _signals_handed_back():
        dlt.config["normalize.parquet_normalizer.add_dlt_load_id"] = True
        # One resource after the other: each has the source's connection for itself.
        dlt.config["extract.next_item_mode"] = "fifo"
        dlt.config["data_writer.file_max_items"] = ROWS_OF_A_FILE
        dlt.config["load.workers"] = FILES_AT_ONCE
        # A job that failed is not simply run again, since its rows may have arrived: the stage is,
        # with its retries and its delays, and it looks first.
        dlt.config["load.raise_on_max_retries"] = 1
        logging.getLogger("dlt").addFilter(_about_hints)
        before = pa.default_memory_pool()
        # The faster pools keep what they once had: a third more memory for the same speed.
        pa.set_memory_pool(pa.system_memory_pool())
        try:
            yield
        finally:
            pa.set_memory_pool(before)


def _about_hints(record: logging.LogRecord) -> bool:
    """Leave out what dlt says at each batch whose columns a source describes better than Arrow."""
    return "several column hints were different" not in record.getMessage()


@contextmanager
def _signals_handed_back() -> Iterator[None]:
    """Let the handlers of before hear a signal that dlt heard, once they are back.

    dlt answers it only where it looks, between files and batches, and forgets it with the step that
    it came in: after the last look it would be lost, and who sent it always is.
    """
    clear = signals._clear_signals  # noqa: SLF001 # dlt offers no other place

    def hand_back() -> None:
        received = signals._received_signal  # noqa: SLF001
        clear()
        if received:
            signal.raise_signal(received)

    with replaced(signals, clear.__name__, hand_back):
        yield


def destination(profile: Profile) -> Destination[Any, Any]:
    """The dlt destination of a target, from the same credentials as dbt.

    Raises:
        ConfigurationError: the target is in no warehouse that sources are loaded into.
    """
    options: dict[str, Any] = {
        # `raw_<owner>__<name>` keeps its two underscores.
        "enable_dataset_name_normalization": False,
        # Inserts in one transaction: views on the table stay, readers see the old or the new.
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
    """The connection of a Postgres target, its password included, as libpq and dlt take it."""
    output = profile.credentials()
    query = {key: str(output[key]) for key in ("sslmode", "connect_timeout") if key in output}
    return sqlalchemy.URL.create(
        "postgresql",
        username=output["user"],
        # dlt insists on a password; libpq takes an empty one as none (.pgpass, trust).
        password=output["password"],
        host="localhost",
        port=output["port"],
        database=output["dbname"],
        query=query | {"host": output["host"]},
    )


def _google_credentials(profile: Profile) -> Any:
    """Google's credentials of a target, as dlt takes them.

    The class's own parser refuses what is neither a key nor a login: a machine's account.
    """
    from dlt.common.configuration.specs.gcp_credentials import (
        GcpDefaultCredentials,
        GcpServiceAccountCredentials,
    )

    credentials = GcpServiceAccountCredentials(project_id=profile.output["project"])
    GcpDefaultCredentials.parse_native_representation(credentials, google_credentials(profile))
    return credentials
