"""Format Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def format_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table; cells must not contain line breaks."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def escape_cell(text: str) -> str:
    """Escape text for a table cell: one line, with `|` and `<` escaped."""
    parts = " ".join(text.split()).replace("|", r"\|").split("`")
    # Outside code spans, `<` would start an HTML tag.
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)
