"""The templates of the pages, and what all of them call. Nothing of dbt is imported here."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from prefect_flows.reporting.charts.svg import NOTHING, group_of, seconds, size, slots


@cache
def templates() -> Environment:
    """The templates of this package, in which every value is escaped."""
    environment = Environment(
        loader=PackageLoader("prefect_flows.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.globals.update(
        group_of=group_of,
        duration=seconds,
        number=number,
        size=size,
        slots=slots,
        cut=_cut,
    )
    return environment


def packaged(name: str) -> str:
    """The text of a file beside the templates."""
    loader = templates().loader
    if loader is None:
        raise LookupError(name)
    return loader.get_source(templates(), name)[0]


def number(value: int | None) -> str:
    """A number for people; a dash for none."""
    return NOTHING if value is None else f"{value:,}"


def _cut(value: str, characters: int) -> str:
    left_out = len(value) - characters
    return value if left_out <= 0 else f"{value[:characters]}… ({left_out:,} more characters)"
