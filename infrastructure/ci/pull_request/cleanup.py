"""Drop the schemas of closed pull requests, only those that Millrace created."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import closing

from infrastructure.ci.pull_request.context import Context
from infrastructure.ci.pull_request.names import get_folder, get_schema, parse_number
from infrastructure.ci.pull_request.warehouse import Limits, Warehouse
from infrastructure.ci.pull_request.warehouse_choice import get_warehouse
from prefect_flows.core.errors import ConfigurationError, TargetBusy

log = logging.getLogger("millrace")

NO_LIMITS = Limits(seconds=600, bytes=0)


def close(number: int, context: Context, wait: float) -> bool:
    """Drop the schema of a pull request, and delete its build folder on this machine.

    Returns:
        Whether there was a schema.

    Raises:
        ConfigurationError: Millrace did not create the schema, or something outside depends on it.
    """
    with closing(get_warehouse(context.get_ci_profile(number), NO_LIMITS)) as warehouse:
        dropped = _drop(warehouse, get_schema(number), wait)
    shutil.rmtree(get_folder(context.settings, number), ignore_errors=True)
    return dropped


def sweep(
    context: Context, repository: str, open_pull_requests: Callable[[], set[int]], *, dry_run: bool
) -> dict[str, str]:
    """Drop the schemas of this repository's pull requests that are no longer open.

    The schemas are listed before the open pull requests, so the schema of a pull request that is
    opened meanwhile is not in the list.

    Returns:
        Schema → `dropped`, or why it was left.
    """
    found: dict[str, str] = {}
    with closing(get_warehouse(context.profile, NO_LIMITS)) as warehouse:
        owners = warehouse.list_owners()
        still_open = open_pull_requests() if owners else set()
        for schema, owner in owners.items():
            number = parse_number(schema)
            if owner is None or number is None:
                found[schema] = "left: Millrace did not create it"
            elif owner.repository is None or owner.repository.lower() != repository.lower():
                found[schema] = f"left: it belongs to {owner.repository or 'no repository'}"
            elif number in still_open:
                found[schema] = "left: its pull request is open"
            elif dry_run:
                found[schema] = "would be dropped"
            else:
                found[schema] = _drop_if_free(warehouse, schema)
    return found


def _drop_if_free(warehouse: Warehouse, schema: str) -> str:
    try:
        return "dropped" if _drop(warehouse, schema, 0) else "left: it was gone already"
    except TargetBusy:
        return "left: a build, comparison or removal is in progress"
    except ConfigurationError as error:
        log.warning("%s: %s", schema, error)
        return f"left: {error.what}"


def _drop(warehouse: Warehouse, schema: str, wait: float) -> bool:
    with warehouse.lock(schema, None, wait):
        exists = warehouse.get_owner(schema) is not None
        if exists:
            warehouse.drop(schema)
    return exists
