"""Units of YouTube's quota: each call that this source makes costs one, and so does each retry.

Source: https://developers.google.com/youtube/v3/determine_quota_cost. A project has 10,000 units a
day unless Google gave it more; they come back at midnight Pacific time.
"""

from __future__ import annotations

from dataclasses import dataclass

UNITS_A_CALL = 1


class QuotaReached(Exception):
    """No call is made any more; what was read is kept. Its text says which quota it was."""


@dataclass
class Quota:
    """The budget of one load, in units, and what was spent of it."""

    budget: int
    spent: int = 0

    def spend(self) -> None:
        """Count a call before it is made.

        Raises:
            QuotaReached: the budget does not allow it.
        """
        if self.spent + UNITS_A_CALL > self.budget:
            raise QuotaReached(f"the budget of {self.budget:,} units is spent")
        self.spent += UNITS_A_CALL
