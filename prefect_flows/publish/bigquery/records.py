"""Which run built what readers see of each model, in a small table of BigQuery.

Readers query `<dataset>.<name>`, an ordinary table. dbt builds `<dataset>__build.<name>`. The
version before is `<dataset>__previous.<name>`. The records are one table of the dataset
`<target's dataset>_publish`, for these reasons:

- Labels of a build table would be lost whenever dbt replaces the table.
- Labels of a dataset are 64 at most, and there are more models than that.
- A load job that overwrites the table is free and atomic, and `tabledata.list`, which reads it, is
  free as well. DML would be charged for at least 10 MB each time.

One run per target: nobody else writes between a read and a write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime

from google.api_core.exceptions import NotFound
from google.cloud.bigquery import (
    Client,
    LoadJobConfig,
    SchemaField,
    SourceFormat,
    Table,
    TableReference,
    WriteDisposition,
)

RECORDS = "published_relations"


def build_dataset(dataset: str) -> str:
    """Return the dataset that dbt builds into."""
    return f"{dataset}__build"


def previous_dataset(dataset: str) -> str:
    """Return the dataset that keeps the version before the published one."""
    return f"{dataset}__previous"


def own_dataset(target_dataset: str) -> str:
    """Return the dataset of the records."""
    return f"{target_dataset}_publish"


@dataclass(frozen=True, order=True)
class Place:
    """Where readers find a model.

    Attributes:
        project: its project.
        dataset: its dataset.
        name: its name.
    """

    project: str
    dataset: str
    name: str

    @property
    def published(self) -> TableReference:
        """The table that readers query."""
        return _reference(self.project, self.dataset, self.name)

    @property
    def build(self) -> TableReference:
        """The table that dbt builds."""
        return _reference(self.project, build_dataset(self.dataset), self.name)

    @property
    def previous(self) -> TableReference:
        """The version before the published one."""
        return _reference(self.project, previous_dataset(self.dataset), self.name)

    def __str__(self) -> str:
        return f"{self.dataset}.{self.name}"


def _reference(project: str, dataset: str, name: str) -> TableReference:
    return TableReference.from_string(f"{project}.{dataset}.{name}")


@dataclass(frozen=True)
class Record:
    """What readers see of a model now, and which runs built it.

    Attributes:
        live_run: the run that built what readers see; None if the model was never published.
        live_since: when it was published, UTC.
        previous_run: the run that built the previous version.
        build_run: the run that last built the build table; None if there is none.
        based_on: when the published table was changed last before the build table was made equal
            to it; None if the build table did not start from published rows.
        switch_id: id of a switch that has begun and not ended; the ids of its jobs contain it.
        switch_run: the run whose rows that switch shows.
        is_edited: always False; BigQuery does not say who changed a table.
    """

    live_run: str | None = None
    live_since: datetime | None = None
    previous_run: str | None = None
    build_run: str | None = None
    based_on: datetime | None = None
    switch_id: str | None = None
    switch_run: str | None = None
    is_edited: bool = False


_KEY = ("project", "dataset", "name")
_VALUES = tuple(field.name for field in fields(Record) if field.name != "is_edited")
_TIMES = frozenset({"live_since", "based_on"})
_SCHEMA = [
    *(SchemaField(name, "STRING", mode="REQUIRED") for name in _KEY),
    *(SchemaField(name, "TIMESTAMP" if name in _TIMES else "STRING") for name in _VALUES),
]


class Records:
    """The records of a target.

    Args:
        client: BigQuery's client.
        project: the target's project.
        target_dataset: its dataset.
    """

    def __init__(self, client: Client, project: str, target_dataset: str) -> None:
        self._client = client
        self._table = Table(_reference(project, own_dataset(target_dataset), RECORDS), _SCHEMA)

    def read(self) -> dict[Place, Record]:
        """Return the record of each model that has one; the table need not exist yet."""
        try:
            rows = list(self._client.list_rows(self._table))
        except NotFound:
            return {}
        return {
            Place(*(row[name] for name in _KEY)): Record(**{name: row[name] for name in _VALUES})
            for row in rows
        }

    def write(self, records: Mapping[Place, Record], location: str | None) -> None:
        """Replace all records, in one free load job."""
        job = self._client.load_table_from_json(
            list(_to_rows(records)),
            self._table.reference,
            location=location,
            job_config=LoadJobConfig(
                schema=_SCHEMA,
                source_format=SourceFormat.NEWLINE_DELIMITED_JSON,
                write_disposition=WriteDisposition.WRITE_TRUNCATE,
            ),
        )
        job.result()


def _to_rows(records: Mapping[Place, Record]) -> Iterator[dict[str, str]]:
    for place, record in sorted(records.items()):
        row = {name: getattr(place, name) for name in _KEY}
        for name in _VALUES:
            value = getattr(record, name)
            if value is not None:
                row[name] = value.isoformat() if name in _TIMES else value
        yield row
