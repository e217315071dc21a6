"""Why a file is not taken, in words that its sender can act on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# What a person reads at once; a reason may quote a value, which may be of any length.
REASON_LENGTH = 300
VALUE_LENGTH = 40


class Malformed(Exception):
    """A file that is not what its name says, or does not fit its table.

    Attributes:
        why: the reason, bounded.
        line: where it shows, 1 the first of the file; none where no line is to blame.
    """

    def __init__(self, why: str, line: int | None = None) -> None:
        super().__init__(why, line)
        self.why = shortened(why, REASON_LENGTH)
        self.line = line


class UnknownColumns(Exception):
    """A file has columns that the table does not know yet."""


class LongRow(Exception):
    """A row of a file does not fit into a block."""


def shortened(text: str, length: int = VALUE_LENGTH) -> str:
    """A text on one line, its middle left out where it is long."""
    text = " ".join(text.split())
    half = (length - 3) // 2
    return text if len(text) <= length else f"{text[:half]} … {text[-half:]}"


def first_bad(items: Sequence[Any], are_good: Callable[[Sequence[Any]], bool]) -> int:
    """Index of the first item that makes `are_good` false; some item does."""
    good, bad = 0, len(items)
    while bad - good > 1:
        middle = (good + bad) // 2
        if are_good(items[good:middle]):
            good = middle
        else:
            bad = middle
    return good
