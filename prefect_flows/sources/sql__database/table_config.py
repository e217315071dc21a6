"""Configuration of a table: source table or query, key, cursor (incremental load), deletes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from prefect_flows.core.documents import DocumentError, parse_json
from prefect_flows.core.validation_messages import format_faults

Evolution = Literal["evolve", "freeze", "discard_value"]


class TableConfig(BaseModel):
    """What to read into one table, and how.

    Attributes:
        table: its name in the source, if it differs from the name here.
        schema_name: the source's schema; that of the whole source by default.
        query: a query in the source's SQL, instead of a table.
        key: primary key; the table's own by default. A query has none of its own.
        cursor: column for incremental loads whose values only grow, such as `updated_at` or `id`:
            rows below the highest value of the last load are not read again. A number, date,
            timestamp, uuid or text; texts are compared by their bytes (`9` is above `12`). Without
            a cursor the table is read in full.
        lag_seconds: read this many seconds below that value again, for rows that were committed
            late. Needs a key and a timestamp cursor.
        deletes: delete rows whose key no longer exists in the source. Not needed for a table that
            is read in full.
        columns: what to do with new columns: evolve adds them, discard_value ignores them, freeze
            stops the load.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str | None = None
    schema_name: str | None = None
    query: str | None = None
    key: list[str] | None = Field(default=None, min_length=1)
    cursor: str | None = None
    lag_seconds: PositiveFloat | None = None
    deletes: bool = False
    columns: Evolution = "evolve"

    @model_validator(mode="after")
    def _fits(self) -> TableConfig:
        if self.query is not None and (self.table or self.schema_name):
            raise ValueError("give a table or a query, not both")
        if self.lag_seconds is not None and self.cursor is None:
            raise ValueError("lag_seconds is for a table with a cursor")
        if self.deletes and self.cursor is None:
            raise ValueError("a table that is read whole loses its deleted rows without `deletes`")
        return self


def parse_tables(text: str) -> dict[str, dict[str, Any] | None]:
    """Parse tables and their options from JSON.

    Raises:
        DocumentError: the text is not JSON, or has another structure.
    """
    try:
        return TypeAdapter(dict[str, dict[str, Any] | None]).validate_python(parse_json(text))
    except ValidationError as error:
        raise DocumentError(format_faults(error)) from error
