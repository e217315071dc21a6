"""What every source shares: finding it, its raw schema, and loading it into a target with dlt.

A source is a folder `prefect_flows/sources/<owner>__<name>` whose module `source.py` holds a dlt
source function of the folder's name. Rows go through Arrow and Parquet: into Postgres by ADBC's
COPY, into BigQuery by a load job. State lives in the warehouse, beside the rows it speaks of:
the working folder is temporary, so that a load killed anywhere leaves nothing half done behind,
and any machine can go on from there.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import dlt
import sqlalchemy
from dlt.common.destination import Destination
from dlt.common.exceptions import TerminalException, TransientException
from dlt.extract import DltResource, DltSource
from dlt.pipeline.exceptions import PipelineStepFailed

from prefect_flows import sources
from prefect_flows.causes import Cause, cause_of, chain_of
from prefect_flows.environment import variables_set
from prefect_flows.errors import (
    ConfigurationError,
    IngestionError,
    MillraceError,
    WarehouseUnreachable,
)
from prefect_flows.google_credentials import google_credentials
from prefect_flows.remedies import mend_of
from prefect_flows.settings import load_settings
from prefect_flows.stages import Logger, Work, as_task, say_expected_errors_without_stack
from prefect_flows.targets import Profile, load_profile, prefect_client


@dataclass(frozen=True)
class Ingestion:
    """What a load did: rows per table (only those that were new), seconds, and dlt's load ids."""

    source: str
    schema: str
    rows: dict[str, int]
    seconds: float
    load_ids: list[str]

    def as_record(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return asdict(self)


def raw_schema(source: str) -> str:
    """Schema (Postgres) or dataset (BigQuery) into which a source is loaded."""
    return f"raw_{source}"


def source_function(name: str) -> Callable[..., DltSource]:
    """The dlt source function of a source.

    Raises:
        ConfigurationError: there is no such source, or its dependencies are not installed.
    """
    sources.require(name)
    module = f"{sources.__name__}.{name}.source"
    try:
        function: Callable[..., DltSource] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Source {name!r} cannot be imported: {error}.",
            where=module,
            mend="uv sync --all-packages",
        ) from error
    return function


def ingest(source: str, profile: Profile, **arguments: Any) -> Ingestion:
    """Load a source into the warehouse of a target.

    Args:
        source: name of the source's folder.
        profile: where to load to.
        arguments: passed to the source function.

    Raises:
        IngestionError: the source could not be read or loaded; `retryable` when a lost
            connection, a timeout or the like is the cause.
    """
    started = time.monotonic()
    with (
        # dlt starts its telemetry when it is first asked for anything, its settings included.
        variables_set({"RUNTIME__DLTHUB_TELEMETRY": "false"} | _endpoint(profile)),
        tempfile.TemporaryDirectory(prefix="millrace-dlt-") as folder,
    ):
        dlt.config["normalize.parquet_normalizer.add_dlt_load_id"] = True
        function = source_function(source)
        pipeline = dlt.pipeline(
            pipeline_name=source,
            destination=_destination(profile),
            dataset_name=raw_schema(source),
            pipelines_dir=folder,
        )
        try:
            data = function(**arguments)
            tables = list(data.resources)
            data.resources.add(_heartbeat())
            info = pipeline.run(data, loader_file_format="parquet")
        except PipelineStepFailed as error:
            raise _ingestion_error(source, profile, error) from error
        trace: Any = pipeline.last_trace
        counts = trace.last_normalize_info.row_counts
    return Ingestion(
        source=source,
        schema=raw_schema(source),
        rows={name: counts.get(name, 0) for name in tables},
        seconds=round(time.monotonic() - started, 2),
        load_ids=list(info.loads_ids),
    )


def ingest_target(source: str, target: str, **arguments: Any) -> dict[str, Any]:
    """Load a source into a target, as a Prefect task with the retries of the settings.

    The body of a source's own flow.

    Raises:
        MillraceError: the target has no block, or the source could not be read or loaded.
    """
    say_expected_errors_without_stack()
    settings = load_settings()
    with prefect_client() as client:
        profile = load_profile(client, target)
    return as_task(
        f"ingest-{source}", settings.stages.ingest, ingest_work(source, profile, **arguments)
    )


def ingest_work(source: str, profile: Profile, **arguments: Any) -> Work:
    """The work of the stage `ingest-<source>`: load, and log the new rows of each table."""

    def work(log: Logger) -> dict[str, Any]:
        load = ingest(source, profile, **arguments)
        for table, rows in load.rows.items():
            log.info("%s.%s: %s new rows", load.schema, table, f"{rows:,}")
        return load.as_record()

    return work


def _heartbeat() -> DltResource:
    """Change the source's state, so that dlt records the load even when no row is new.

    That record, a row of `_dlt_loads`, is what `dbt source freshness` reads.
    """

    def beat() -> Iterator[None]:
        dlt.current.source_state()["checked_at"] = datetime.now(UTC).isoformat()
        yield from ()

    return dlt.resource(beat, name="_heartbeat")


def _destination(profile: Profile) -> Destination[Any, Any]:
    """The dlt destination of a target, from the same credentials as dbt."""
    options: dict[str, Any] = {
        # `raw_<owner>__<name>` keeps its two underscores.
        "enable_dataset_name_normalization": False,
        # Inserts in one transaction: views on the table stay, readers see the old or the new.
        "replace_strategy": "insert-from-staging",
    }
    output = profile.credentials()
    if profile.warehouse == "postgres":
        query = {key: str(output[key]) for key in ("sslmode", "connect_timeout") if key in output}
        url = sqlalchemy.URL.create(
            "postgresql",
            username=output["user"],
            # dlt insists on a password; libpq takes an empty one as none (.pgpass, trust).
            password=output["password"],
            host="localhost",
            port=output["port"],
            database=output["dbname"],
            query=query | {"host": output["host"]},
        )
        return dlt.destinations.postgres(url.render_as_string(hide_password=False), **options)
    if profile.warehouse == "bigquery":
        options |= {"project_id": output["project"], "location": output["location"]}
        return dlt.destinations.bigquery(_google_credentials(profile), **options)
    raise ConfigurationError(
        f"Sources cannot be loaded into a warehouse of type {profile.warehouse!r}.",
        where=f"target {profile.target!r}",
        mend="choose a target of type postgres or bigquery",
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


def _endpoint(profile: Profile) -> dict[str, str]:
    """The variable that tells Google's client of another endpoint; dlt has no setting for it."""
    endpoint = profile.output.get("api_endpoint")
    return {} if endpoint is None else {"BIGQUERY_EMULATOR_HOST": str(endpoint)}


def _ingestion_error(source: str, profile: Profile, error: PipelineStepFailed) -> MillraceError:
    """The error a person reads: the source's own, or the warehouse's."""
    chain = list(chain_of(error))
    for link in chain:
        if isinstance(link, MillraceError):
            return link
    first = f"{type(chain[-1]).__name__}: {str(chain[-1]).strip()}"
    if error.step == "sync":
        # dlt's first connection. What fails here is an address or a credential.
        return WarehouseUnreachable(
            f"The warehouse of target {profile.target!r} cannot be used: {first}",
            where=profile.address,
            mend=mend_of(error, profile),
        )
    may_pass = cause_of(error) is Cause.TRANSIENT or (
        any(isinstance(link, TransientException) for link in chain)
        and not any(isinstance(link, TerminalException) for link in chain)
    )
    return IngestionError(
        f"Loading source {source!r} failed while dlt ran its step {error.step!r}: {first}.",
        where=f"schema {raw_schema(source)!r} of target {profile.target!r}",
        mend="mend the cause and run it again; what was loaded before is as it was",
        retryable=may_pass,
    )
