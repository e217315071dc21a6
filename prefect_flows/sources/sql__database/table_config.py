"""What is read into one table of the warehouse, and how."""

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

from prefect_flows.core.documents import Unreadable, parse_json
from prefect_flows.core.validation_messages import validation_faults

Evolution = Literal["evolve", "freeze", "discard_value"]


class TableConfig(BaseModel):
    """What is read into one table, and how.

    Attributes:
        table: its name in the source, where it is not the name it gets here.
        schema_name: the source's schema; that of the whole dump by default.
        query: a query in the source's SQL, in place of a table.
        key: primary key; the table's own by default. A query has none of its own.
        cursor: column that only grows, such as `updated_at` or `id`: what is not above the last
            load's highest value is not read again. A number, date, timestamp, uuid or text; texts
            are compared by their bytes (`9` is above `12`). Without it the table is read whole.
        lag_seconds: reads so many seconds below that value again, for rows that were committed
            late. Needs a key and a cursor that is a timestamp.
        deletes: take away rows whose key the source does not have any more. A table that is read
            whole needs no such request.
        columns: what happens to new columns: evolve adds them, discard_value leaves them out,
            freeze stops the load.
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
    """Tables and their options, as JSON.

    Raises:
        Unreadable: it is no JSON, or something else.
    """
    try:
        return TypeAdapter(dict[str, dict[str, Any] | None]).validate_python(parse_json(text))
    except ValidationError as error:
        raise Unreadable("; ".join(validation_faults(error))) from error
