"""Errors of inbox files: the reason for quarantine, in words that the sender can act on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefect_flows.core.formatting import shorten_middle

# A reason may quote a value, which may have any length.
MAX_REASON_LENGTH = 300


class MalformedFile(Exception):
    """A file is invalid, or does not fit its table.

    Attributes:
        why: the reason, at most 300 characters.
        line: line of the fault, counted from 1; None if there is no such line.
    """

    def __init__(self, why: str, line: int | None = None) -> None:
        super().__init__(why, line)
        self.why = shorten_middle(why, MAX_REASON_LENGTH)
        self.line = line


class UnknownColumns(Exception):
    """A file has columns that the table does not have yet."""


class LongRow(Exception):
    """A row of a file does not fit into a block."""


def find_first_bad(items: Sequence[Any], are_good: Callable[[Sequence[Any]], bool]) -> int:
    """Find the index of the first item that makes `are_good` false, by bisection; one item must."""
    good, bad = 0, len(items)
    while bad - good > 1:
        middle = (good + bad) // 2
        if are_good(items[good:middle]):
            good = middle
        else:
            bad = middle
    return good
