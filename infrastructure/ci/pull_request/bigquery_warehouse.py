"""BigQuery warehouse of pull requests: CI datasets and comparison queries."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from google.api_core.exceptions import Conflict, GoogleAPICallError, NotFound
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery

from infrastructure.ci.pull_request.dataset_lease import Lease
from infrastructure.ci.pull_request.names import SchemaOwner, foreign_schema_error, parse_number
from infrastructure.ci.pull_request.warehouse import (
    Limits,
    QueryFailed,
    QueryLimitExceeded,
    Relation,
    lock_error,
)
from prefect_flows.core.errors import WarehouseUnreachable
from prefect_flows.core.formatting import one_line
from prefect_flows.core.google_credentials import google_credentials
from prefect_flows.core.hints import get_hint
from prefect_flows.core.profiles import Profile

MAX_PARALLEL_QUERIES = 8
POLL_SECONDS = 2.0
# Labels of each query job; dbt sets its own labels on its jobs.
LABELS = {"app": "millrace", "task": "pull-request-comparison"}

_NUMBERS = ("INTEGER", "INT64", "FLOAT", "FLOAT64", "NUMERIC", "BIGNUMERIC")
# Types that support equality and a cast to string.
_PLAIN = (*_NUMBERS, "STRING", "BOOLEAN", "BOOL", "DATE", "DATETIME", "TIME", "TIMESTAMP")


class BigQueryDialect:
    """SQL dialect of BigQuery."""

    def quote(self, name: str) -> str:
        """Quote a column's name."""
        return f"`{name}`"

    def quote_relation(self, relation: Relation) -> str:
        """Format the fully qualified name of a relation."""
        return f"`{relation.database}`.`{relation.schema}`.`{relation.name}`"

    def get_type_family(self, type_name: str) -> str:
        """Return `number` for numeric types, otherwise the type without its modifiers."""
        bare = re.sub(r"\(.*?\)", "", type_name)
        return "number" if bare in _NUMBERS else bare

    def is_float(self, type_name: str) -> bool:
        """Return whether the type is floating point, whose sums depend on the order of rows."""
        return type_name in ("FLOAT", "FLOAT64")

    def cast_to_comparable(self, expression: str, type_name: str) -> str:
        """Convert an expression to a type with equality: arrays, structs and JSON have none."""
        plain = self.get_type_family(type_name) in ("number", "BYTES", *_PLAIN)
        return expression if plain else f"to_json_string({expression})"

    def cast_to_text(self, expression: str, type_name: str) -> str:
        """Cast an expression to text."""
        plain = self.get_type_family(type_name) in ("number", *_PLAIN)
        return f"cast({expression} as string)" if plain else f"to_json_string({expression})"


class BigQueryWarehouse:
    """The BigQuery project that contains production and the datasets of pull requests.

    Raises:
        WarehouseUnreachable: Google does not respond, or denies access.
    """

    def __init__(self, profile: Profile, limits: Limits) -> None:
        self.dialect = BigQueryDialect()
        self.max_parallel_queries = MAX_PARALLEL_QUERIES
        self._profile = profile
        self._limits = limits
        output = profile.output
        endpoint = output.get("api_endpoint")
        self._client = bigquery.Client(
            str(output.get("execution_project") or output["project"]),
            credentials=google_credentials(profile),
            location=output.get("location"),
            client_options={"api_endpoint": endpoint} if endpoint else None,
        )

    @contextmanager
    def lock(self, schema: str, owner: SchemaOwner | None, wait: float) -> Iterator[None]:
        """Lock a dataset with a lease in its labels, and renew the lease in the background."""
        deadline = time.monotonic() + wait
        lease = Lease(self._client, self._reference(schema))
        with self._translate_errors():
            if owner is not None and self.get_owner(schema) is None:
                self._create(schema, owner)
            exists = self.get_owner(schema) is not None
            while exists and not lease.acquire():
                if time.monotonic() >= deadline:
                    raise lock_error(schema, self._profile.address)
                time.sleep(POLL_SECONDS)
        if not exists:  # there is nothing to lock
            yield
            return
        with lease.keep_renewed():
            yield

    def get_owner(self, schema: str) -> SchemaOwner | None:
        """Return the owner of a dataset, or None if there is no such dataset."""
        with self._translate_errors():
            try:
                dataset = self._client.get_dataset(self._reference(schema))
            except NotFound:
                return None
        owner = SchemaOwner.parse(dataset.description, schema)
        if owner is None:
            raise foreign_schema_error(schema, self._profile.address)
        return owner

    def reset(self, schema: str, owner: SchemaOwner) -> None:
        """Empty a dataset and set its owner. The dataset itself stays, and so do its grants."""
        if self.get_owner(schema) is None:
            raise foreign_schema_error(schema, self._profile.address)
        reference = self._reference(schema)
        with self._translate_errors():
            dataset = bigquery.Dataset(reference)
            dataset.description = owner.model_dump_json()
            self._client.update_dataset(dataset, ["description"])
            tables = list(self._client.list_tables(reference))
            routines = list(self._client.list_routines(reference))
            with ThreadPoolExecutor(MAX_PARALLEL_QUERIES) as threads:
                delete_table = partial(self._client.delete_table, not_found_ok=True)
                list(threads.map(delete_table, tables))
                list(threads.map(partial(self._client.delete_routine, not_found_ok=True), routines))

    def drop(self, schema: str) -> None:
        """Delete a dataset and its contents."""
        if self.get_owner(schema) is not None:
            with self._translate_errors():
                self._client.delete_dataset(
                    self._reference(schema), delete_contents=True, not_found_ok=True
                )

    def list_owners(self) -> dict[str, SchemaOwner | None]:
        """Return every dataset named like one of a pull request, with its owner if it has one."""
        found: dict[str, SchemaOwner | None] = {}
        with self._translate_errors():
            for item in self._client.list_datasets(str(self._profile.output["project"])):
                if parse_number(item.dataset_id) is not None:
                    dataset = self._client.get_dataset(item.reference)
                    found[item.dataset_id] = SchemaOwner.parse(dataset.description, item.dataset_id)
        return found

    def get_column_types(self, relations: Sequence[Relation]) -> dict[Relation, dict[str, str]]:
        """Return names (lowercase) and types of the columns of the relations that exist."""

        def get_columns(relation: Relation) -> dict[str, str] | None:
            name = f"{relation.database}.{relation.schema}.{relation.name}"
            try:
                table = self._client.get_table(name)
            except NotFound:
                return None
            return {field.name.lower(): _type(field) for field in table.schema}

        with self._translate_errors(), ThreadPoolExecutor(MAX_PARALLEL_QUERIES) as threads:
            found = zip(relations, threads.map(get_columns, relations), strict=True)
            return {relation: columns for relation, columns in found if columns is not None}

    def estimate_bytes(self, sql: str) -> int:
        """Return the bytes that a query would scan, from a dry run."""
        config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
        with self._translate_errors():
            return int(self._client.query(sql, job_config=config).total_bytes_processed or 0)

    def fetch_row(self, sql: str) -> Mapping[str, Any]:
        """Run a query that returns one row, and return the row."""
        config = bigquery.QueryJobConfig(
            # BigQuery bills at least 10 MB per table.
            maximum_bytes_billed=max(self._limits.bytes, 100_000_000),
            labels=LABELS,
            job_timeout_ms=round(self._limits.seconds * 1000),
        )
        with self._translate_errors():
            (row,) = self._client.query_and_wait(sql, job_config=config)
        return dict(row.items())

    def close(self) -> None:
        """Close the client."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _reference(self, schema: str) -> bigquery.DatasetReference:
        return bigquery.DatasetReference(str(self._profile.output["project"]), schema)

    def _create(self, schema: str, owner: SchemaOwner) -> None:
        dataset = bigquery.Dataset(self._reference(schema))
        dataset.location = self._profile.output.get("location")
        dataset.description = owner.model_dump_json()
        dataset.labels = {"app": "millrace", "pull-request": str(owner.number)}
        try:
            self._client.create_dataset(dataset)
        except Conflict:  # another build of the same pull request created it first
            return

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        profile = self._profile
        try:
            yield
        except (GoogleAPICallError, GoogleAuthError) as error:
            reasons = {e.get("reason") for e in getattr(error, "errors", []) if isinstance(e, dict)}
            if reasons & {"bytesBilledLimitExceeded", "stopped"}:
                raise QueryLimitExceeded(
                    f"It takes longer than {self._limits.seconds:g} s, or is billed for more than "
                    f"{self._limits.bytes:,} bytes.",
                    where=profile.address,
                    fix="give it more with --seconds SECONDS or --gigabytes NUMBER",
                ) from error
            if isinstance(error, GoogleAPICallError) and error.code == 400:
                raise QueryFailed(
                    f"The warehouse refuses: {one_line(str(error))}",
                    where=profile.address,
                    fix="correct what it names, and try again",
                ) from error
            raise WarehouseUnreachable(
                f"Cannot connect to the warehouse of target {profile.target!r}: "
                f"{one_line(str(error))}",
                where=profile.address,
                fix=f"{get_hint(error, profile)}; documentation/pull_requests.md lists what the "
                "target of pull requests needs",
            ) from error


def _type(field: bigquery.SchemaField) -> str:
    """Format a column's type as in SQL, including nested fields."""
    name = str(field.field_type)
    if name in ("RECORD", "STRUCT"):
        name = f"STRUCT<{', '.join(f'{each.name} {_type(each)}' for each in field.fields)}>"
    elif field.precision is not None:
        scale = "" if field.scale is None else f", {field.scale}"
        name = f"{name}({field.precision}{scale})"
    elif field.max_length is not None:
        name = f"{name}({field.max_length})"
    return f"ARRAY<{name}>" if field.mode == "REPEATED" else name
