"""Text and durations as a person reads them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from prefect_flows.core.formatting import (
    format_duration,
    one_line,
    shorten_middle,
    truncate,
    truncate_long,
)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0.0 s"), (0.42, "0.4 s"), (12, "12 s"), (59.6, "1 min"), (185, "3 min 5 s"),
     (600, "10 min"), (7_205, "2 h"), (15_000, "4 h 10 min"), (90_000, "1 day 1 h"),
     (3 * 86_400, "3 days")],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said
    assert format_duration(timedelta(seconds=seconds)) == said


def test_a_text_is_cut_to_its_limit() -> None:
    assert truncate("abcdef", 6) == "abcdef"
    assert truncate("abcdefg", 6) == "abcde…"
    assert one_line(" ab\n  cd\tef ") == "ab cd ef"
    assert one_line("ab\ncdef", 6) == "ab cd…"
    assert truncate_long("abcdef", 3) == "abc… (3 more characters)"


def test_the_two_ends_of_a_name_stay() -> None:
    assert shorten_middle("abcdefgh", 8) == "abcdefgh"
    assert shorten_middle("abcd\nefghi", 8) == "abcd…ghi"
