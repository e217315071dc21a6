"""What goes wrong on a host, in the shape of the project's errors, without importing them there."""

from __future__ import annotations

REFUSED, BUSY = 2, 75


class Refused(Exception):  # it says what the host does
    """Nothing was changed; says what is wrong, where, and what fixes it."""

    code = REFUSED

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n  where: {self.where}\n  fix:   {self.fix}"


class Busy(Refused):
    """Another delivery to this folder is under way."""

    code = BUSY


class StepFailed(Exception):  # a step of a delivery, which is then taken back
    """A step did not do what it should have done; one line of why."""
