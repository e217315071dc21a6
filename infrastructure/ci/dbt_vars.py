"""Variables of the dbt project on the command lines of checks and pull requests."""

from __future__ import annotations

from typing import Any

from prefect_flows.core.documents import DocumentError, parse_json
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.ingest.source_registry import DISABLED_VARIABLE


def parse_vars(text: str) -> dict[str, Any]:
    """Parse the option `--vars`.

    Raises:
        ConfigurationError: it is not a JSON object.
    """
    try:
        variables = parse_json(text)
    except DocumentError as error:
        variables, reason = None, str(error)
    else:
        reason = "it is not an object"
    if not isinstance(variables, dict):
        raise ConfigurationError(
            f"Not variables as JSON: {reason}.",
            where="--vars",
            fix=f"""write an object: --vars '{{"{DISABLED_VARIABLE}": []}}'""",
        )
    return variables
