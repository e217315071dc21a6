"""Jinja templates of the HTML pages, with autoescape and common filters; does not import dbt."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from prefect_flows.core.formatting import format_duration, truncate_long
from prefect_flows.reporting.charts.svg import NOTHING, get_group, size, slots


@cache
def templates() -> Environment:
    """Return the template environment, which escapes every value."""
    environment = Environment(
        loader=PackageLoader("prefect_flows.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.globals.update(
        get_group=get_group,
        duration=format_duration,
        number=number,
        size=size,
        slots=slots,
        cut=truncate_long,
        http=web_url,
    )
    return environment


def read_packaged_file(name: str) -> str:
    """Return the text of a file beside the templates."""
    loader = templates().loader
    if loader is None:
        raise LookupError(name)
    return loader.get_source(templates(), name)[0]


def web_url(url: str | None) -> str | None:
    """Return the URL if it is safe to link to (http or https), else None."""
    return url if url is not None and url.startswith(("https://", "http://")) else None


def number(value: int | None) -> str:
    """Format a number; a dash for None."""
    return NOTHING if value is None else f"{value:,}"
