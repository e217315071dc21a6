"""Escape the cells of Markdown tables."""

from __future__ import annotations

from prefect_flows.core.formatting import one_line


def escape_cell(text: str) -> str:
    """Escape text for a table cell: one line, with `|` and `<` escaped."""
    parts = one_line(text).replace("|", r"\|").split("`")
    # Outside code spans, `<` would start an HTML tag.
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)
