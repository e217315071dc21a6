"""Collects rejected rows, which a source skips with a reason and the stage reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Rejection:
    """Rows that a source rejected.

    Attributes:
        table: table the rows were for.
        where: file and line, or page of an API's response.
        why: what is wrong; without values of the row that may be personal data.
        rows: number of rows.
    """

    table: str
    where: str
    why: str
    rows: int = 1


_COLLECTED: ContextVar[list[Rejection] | None] = ContextVar("rejections", default=None)


def reject(table: str, *, where: str, why: str, rows: int = 1) -> None:
    """Skip rows without stopping the load; the stage's record and artifact list them."""
    collected = _COLLECTED.get()
    if collected is not None:
        collected.append(Rejection(table, where, why, rows))


@contextmanager
def collect_rejections() -> Iterator[list[Rejection]]:
    """Collect the rejections of this thread in the list that this context manager returns."""
    collected: list[Rejection] = []
    token = _COLLECTED.set(collected)
    try:
        yield collected
    finally:
        _COLLECTED.reset(token)
