"""Counts quota units of the YouTube Data API; each call of this source costs one, retries included.

Source: https://developers.google.com/youtube/v3/determine_quota_cost. A project has 10,000 units a
day unless Google granted more; the quota resets at midnight Pacific time.
"""

from __future__ import annotations

from dataclasses import dataclass

UNITS_PER_CALL = 1


class QuotaReached(Exception):
    """The quota is used up: the load ends with what it has read. The message names the quota."""


@dataclass
class Quota:
    """Unit budget of one load, and the units spent."""

    budget: int
    spent: int = 0

    def spend(self) -> None:
        """Count a call before it is made.

        Raises:
            QuotaReached: the budget is used up.
        """
        if self.spent + UNITS_PER_CALL > self.budget:
            raise QuotaReached(f"the budget of {self.budget:,} units is spent")
        self.spent += UNITS_PER_CALL
