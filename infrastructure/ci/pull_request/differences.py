"""Result of a comparison (`comparison.json`): rows, columns and types that differ."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Difference(BaseModel):
    """Differences between a relation of the pull request and that of production.

    Attributes:
        notes: what was not compared and why, and how to read the figures.
        key: columns that rows were matched by; empty if rows were only counted.
        left_out: volatile columns, which were not compared.
        changed_in: column → number of rows in which it changed, if any.
        types: column → its type in production and in the pull request.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unique_id: str
    notes: Sequence[str] = ()
    key: Sequence[str] = ()
    skipped_columns: Sequence[str] = ()
    rows_before: int | None = None
    rows_after: int | None = None
    added: int | None = None
    removed: int | None = None
    changed: int | None = None
    changed_by_column: dict[str, int] = {}
    columns_added: dict[str, str] = {}
    columns_removed: dict[str, str] = {}
    types: dict[str, tuple[str, str]] = {}

    @property
    def is_same(self) -> bool | None:
        """Whether rows and columns are equal; None if unknown."""
        if self.columns_added or self.columns_removed or self.types:
            return False
        if self.added is None:
            same_count = self.rows_before == self.rows_after
            return None if same_count or self.rows_after is None else False
        return not (self.added or self.removed or self.changed)

    @property
    def summary(self) -> str:
        """Summary for the log."""
        if self.added is not None:
            rows = f"{self.added:,} added, {self.removed:,} removed, "
            return rows + f"{self.changed:,} changed of {self.rows_before:,}"
        return "; ".join(self.notes) or f"{self.rows_after} rows"


class Comparison(BaseModel):
    """The differences of all relations of a build.

    Attributes:
        build: id of the build.
        bytes: bytes that the comparison scanned, if the warehouse reports them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    build: str
    differences: Sequence[Difference]
    bytes: int | None = None
