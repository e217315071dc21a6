"""Errors on the host, formatted like the project's errors, which are not installed there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

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


@contextmanager
def collect_failure(
    faults: list[str], errors: tuple[type[Exception], ...] = (StepFailed,)
) -> Iterator[None]:
    """Collect the failure of a step of a rollback, so that the other steps still run."""
    try:
        yield
    except errors as error:
        faults.append(str(error).partition("\n")[0])


def refuse_new_faults(faults: dict[str, str], known: Collection[str]) -> None:
    """Raise an error for faults that the health check did not find before the delivery.

    Raises:
        StepFailed: there are new faults.
    """
    found = [text for key, text in faults.items() if key not in known]
    if found:
        raise StepFailed(f"the health check fails: {'; '.join(found)}")
