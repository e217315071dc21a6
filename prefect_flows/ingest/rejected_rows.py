"""Rows that a source refuses, and goes on: told where it finds them, shown with its stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Rejection:
    """What was refused.

    Attributes:
        table: table that it was for.
        where: file and line, or page of an answer.
        why: what is wrong with it; no value of the row itself where that may be personal.
        rows: how many rows.
    """

    table: str
    where: str
    why: str
    rows: int = 1


_COLLECTED: ContextVar[list[Rejection] | None] = ContextVar("rejections", default=None)


def reject(table: str, *, where: str, why: str, rows: int = 1) -> None:
    """Refuse rows without stopping the load; the stage's record and artifact say so."""
    collected = _COLLECTED.get()
    if collected is not None:
        collected.append(Rejection(table, where, why, rows))


@contextmanager
def collecting() -> Iterator[list[Rejection]]:
    """Collect what is refused meanwhile, in this thread."""
    collected: list[Rejection] = []
    token = _COLLECTED.set(collected)
    try:
        yield collected
    finally:
        _COLLECTED.reset(token)
