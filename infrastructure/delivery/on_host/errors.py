"""Errors on the host, formatted like the project's errors, which are not installed there."""

from __future__ import annotations

REFUSED, BUSY = 2, 75


class DeliveryRefused(Exception):  # the name says what the host does
    """Nothing was changed; says what is wrong, where, and how to fix it."""

    code = REFUSED

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  fix:   {self.fix}"


class DeliveryBusy(DeliveryRefused):
    """Another delivery to this folder is in progress."""

    code = BUSY


class StepFailed(Exception):  # the delivery is then rolled back
    """A step of the delivery failed, so the delivery is rolled back; the message is one line."""
