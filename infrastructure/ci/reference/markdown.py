"""Tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells hold no line breaks."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def in_line(text: str) -> str:
    """Text for a cell: one line, its bars and angle brackets as they are."""
    parts = " ".join(text.split()).replace("|", r"\|").split("`")
    # Outside of code, what looks like a tag would be taken for one.
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)
