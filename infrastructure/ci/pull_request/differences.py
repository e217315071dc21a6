"""What a comparison found: plain data, kept in one file."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class Difference(BaseModel):
    """A relation of a pull request against that of production.

    Attributes:
        notes: what was not compared, and why; what a reader has to know of the figures.
        key: columns that rows were matched by; none where rows were only counted.
        changed_in: column → rows in which it is another, where it is in any.
        types: column → its type there and here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unique_id: str
    notes: Sequence[str] = ()
    key: Sequence[str] = ()
    left_out: Sequence[str] = ()
    rows_before: int | None = None
    rows_after: int | None = None
    added: int | None = None
    removed: int | None = None
    changed: int | None = None
    changed_in: dict[str, int] = {}
    columns_added: dict[str, str] = {}
    columns_removed: dict[str, str] = {}
    types: dict[str, tuple[str, str]] = {}

    @property
    def is_same(self) -> bool | None:
        """Whether no row and no column differs; none where that is not known."""
        if self.columns_added or self.columns_removed or self.types:
            return False
        if self.added is None:
            same_count = self.rows_before == self.rows_after
            return None if same_count or self.rows_after is None else False
        return not (self.added or self.removed or self.changed)

    @property
    def said(self) -> str:
        """What a log says of it."""
        if self.added is not None:
            rows = f"{self.added:,} added, {self.removed:,} removed, "
            return rows + f"{self.changed:,} changed of {self.rows_before:,}"
        return "; ".join(self.notes) or f"{self.rows_after} rows"


class Comparison(BaseModel):
    """All relations of a build.

    Attributes:
        bytes: what the comparison itself read, where the warehouse sells by bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    build: str
    differences: Sequence[Difference]
    bytes: int | None = None
