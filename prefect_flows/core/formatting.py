"""Formats text and durations for people: on one line, shortened, in common units."""

from __future__ import annotations

from datetime import timedelta


def one_line(text: str, characters: int | None = None) -> str:
    """Return a text on one line, cut to at most this many characters."""
    line = " ".join(text.split())
    return line if characters is None else truncate(line, characters)


def truncate(text: str, characters: int) -> str:
    """Cut a text at its end to at most this many characters."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def truncate_long(text: str, characters: int) -> str:
    """Cut a long text after this many characters, and add how many are left out."""
    left_out = len(text) - characters
    return text if left_out <= 0 else f"{text[:characters]}… ({left_out:,} more characters)"


def shorten_middle(text: str, characters: int = 40) -> str:
    """Return a text on one line, without its middle if it has more characters than this."""
    text = one_line(text)
    if len(text) <= characters:
        return text
    kept = max(characters - 1, 1)
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def format_duration(duration: timedelta | float) -> str:
    """Format a duration (or seconds) in at most two units: `0.4 s`, `10 min`, `3 days 4 h`."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [
        (days, "days" if days > 1 else "day"), (hours, "h"), (minutes, "min"), (rest, "s"),
    ]  # fmt: skip
    largest = next((place for place, part in enumerate(parts) if part[0]), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[largest : largest + 2] if count)
