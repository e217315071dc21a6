"""A group of datasets for each door, in one project: alike but for the beginning of their names."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from google.cloud.bigquery import LoadJobConfig, SchemaField, SourceFormat, Table

from tests.support.bigquery.emulator import BigQuery
from tests.support.bigquery.stand_ins import PROJECT
from tests.support.conformance.project import SIDES, Side
from tests.support.conformance.truth import Relation, compared_columns

# The dataset of a door's target; dbt puts an underscore and more behind it for other schemas.
DATASETS: dict[Side, str] = {"dbt": "conformance_dbt", "pipeline": "conformance_pipeline"}
# What both are called where they are compared.
COMPARED = "conformance"
NAMES = {"text": "string", "datetime": "datetime", "instant": "timestamp"}
# dbt ends the name of a temporary table with the time, and leaves those of a failure behind.
TEMPORARY = re.compile(r"(__dbt_tmp)_?\d+$")
TIMEOUT = 60


class OnBigQuery:
    """Two groups of datasets in BigQuery, or in what stands in for it."""

    def __init__(self, bigquery: BigQuery) -> None:
        self.bigquery = bigquery
        self.client = bigquery.client()

    def close(self) -> None:
        """Leave nothing behind, for those who use the same emulator."""
        for side in SIDES:
            self._drop(side)
        self.client.close()

    @property
    def environment(self) -> Mapping[str, str]:
        return self.bigquery.environment

    def target(self, side: Side) -> dict[str, Any]:
        return self.bigquery.target(DATASETS[side])

    def in_profile(self, side: Side) -> dict[str, str]:
        return {"schema": DATASETS[side]}

    def clear(self, side: Side) -> None:
        self._drop(side)
        self.client.create_dataset(self._raw(side))

    def execute(self, side: Side, statements: str) -> None:
        filled = statements.format(raw=self._raw(side), **NAMES)
        for statement in filled.split(";"):
            if statement.strip():
                self.client.query(statement).result(timeout=TIMEOUT)

    def insert(self, side: Side, table: str, rows: list[tuple[Any, ...]]) -> None:
        into = self.client.get_table(f"{PROJECT}.{self._raw(side)}.{table}")
        names = [field.name for field in into.schema]
        lines = [json.dumps(dict(zip(names, row, strict=True)), default=str) for row in rows]
        # A load whose size is not told is sent piece by piece, as dbt sends its seeds.
        job = self.client.load_table_from_file(
            io.BytesIO("\n".join(lines).encode()),
            into,
            job_config=LoadJobConfig(source_format=SourceFormat.NEWLINE_DELIMITED_JSON),
        )
        job.result(timeout=TIMEOUT)

    def relations(self, side: Side) -> dict[str, Relation]:
        found = {}
        for dataset in self._datasets(side):
            for item in self.client.list_tables(dataset):
                table = self.client.get_table(item.reference)
                name = _as_compared(side, f"{table.dataset_id}.{table.table_id}")
                name = TEMPORARY.sub(r"\1", name)
                assert name not in found, f"two relations are called {name}"
                found[name] = self._relation(side, name, table)
        return found

    def _relation(self, side: Side, name: str, table: Table) -> Relation:
        shown = compared_columns(name, [field.name for field in table.schema], "`")
        rows = self.client.query(f"select {shown} from `{table.full_table_id.replace(':', '.')}`")
        return Relation(
            table.table_type,
            tuple((field.name, _type(field)) for field in table.schema),
            Counter(row.values() for row in rows.result(timeout=TIMEOUT)),
            (
                f"partitions: {table.time_partitioning or table.range_partitioning}",
                f"clusters: {table.clustering_fields}",
            ),
            None if table.view_query is None else _as_compared(side, table.view_query),
        )

    def _drop(self, side: Side) -> None:
        for dataset in self._datasets(side):
            self.client.delete_dataset(dataset, delete_contents=True)

    def _datasets(self, side: Side) -> list[str]:
        names = [item.dataset_id for item in self.client.list_datasets(PROJECT)]
        place = DATASETS[side]
        return [name for name in names if name == place or name.startswith(f"{place}_")]

    def _raw(self, side: Side) -> str:
        return f"{DATASETS[side]}_raw"


def _as_compared(side: Side, text: str) -> str:
    return text.replace(DATASETS[side], COMPARED)


def _type(field: SchemaField) -> str:
    return f"{field.field_type} {field.mode}"
