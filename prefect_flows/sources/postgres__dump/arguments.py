"""The tables that are asked for on the command line."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from prefect_flows.core.documents import Unreadable, parse_json
from prefect_flows.core.validation_messages import validation_faults


def parse_tables(text: str) -> dict[str, dict[str, Any] | None]:
    """Tables and their options, as JSON.

    Raises:
        Unreadable: it is no JSON, or something else.
    """
    try:
        return TypeAdapter(dict[str, dict[str, Any] | None]).validate_python(parse_json(text))
    except ValidationError as error:
        raise Unreadable("; ".join(validation_faults(error))) from error
