"""The days that a backfill loads and builds again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta


@dataclass(frozen=True)
class DateWindow:
    """Whole days in UTC, both ends included, as people give them.

    Attributes:
        first: the first day.
        last: the last day.
    """

    first: date
    last: date

    @property
    def end(self) -> date:
        """The day after the last one: the end as dbt and `<` take it, which excludes it."""
        return self.last + timedelta(days=1)

    def moments(self) -> tuple[datetime, datetime]:
        """Return begin and excluded end in UTC."""
        return (
            datetime.combine(self.first, time(), UTC),
            datetime.combine(self.end, time(), UTC),
        )

    def __str__(self) -> str:
        return f"{self.first} to {self.last}"
