"""What a source is called with: arguments that are given or configured, and secrets from blocks.

A source function's signature says what it takes. Each parameter that is annotated as dlt's secret
(`dlt.TSecretStrValue`) is filled from the block that is named for it and for the target; every
other one is given by a run, by the target's deployment in the source's `prefect.yaml`, or by its
default.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from dlt.common.configuration.specs.base_configuration import is_secret_hint
from dlt.extract import DltSource
from pydantic import ConfigDict, ValidationError, create_model

from prefect_flows import sources
from prefect_flows.errors import ConfigurationError
from prefect_flows.settings import load_settings
from prefect_flows.targets import secret_block
from prefect_flows.validation_messages import validation_faults

# The value of a Secret block; none where there is no such block.
Secrets = Callable[[str], Any | None]


def no_secrets(_block: str) -> None:
    """Where there is no Prefect API, there are no blocks."""


def located(url: str) -> str:
    """A folder's path or URL; a relative path is one of the project, wherever a run has its own."""
    if "://" in url or url.startswith("~"):
        return url
    return str(load_settings().project_dir / url)


def source_function(name: str) -> Callable[..., DltSource]:
    """The dlt source function of a source.

    Raises:
        ConfigurationError: there is no such source, or its dependencies are not installed.
    """
    sources.require(name)
    module = f"{sources.__name__}.{name}.source"
    try:
        function: Callable[..., DltSource] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Source {name!r} cannot be imported: {error}.",
            where=module,
            mend="uv sync --all-packages",
        ) from error
    return function


def source_arguments(
    name: str, target: str, given: Mapping[str, Any], secrets: Secrets
) -> dict[str, Any]:
    """The arguments of a source for a target, validated, with its secrets.

    Args:
        given: of the run; they go before those that are configured for the target.

    Raises:
        ConfigurationError: an argument is unknown, missing or of another type, or a secret that
            the source needs has no block.
    """
    function = source_function(name)
    hints = get_type_hints(inspect.unwrap(function), include_extras=True)
    parameters = inspect.signature(function).parameters
    hidden = {p for p in parameters if is_secret_hint(hints.get(p, Any))}
    arguments = sources.configured(name, target) | dict(given)
    for parameter in hidden - set(arguments):
        block = secret_block(name, parameter, target)
        value = secrets(block)
        if value is not None:
            arguments[parameter] = value
        elif parameters[parameter].default is inspect.Parameter.empty:
            raise ConfigurationError(
                f"Source {name!r} needs a secret for its {parameter!r}, and block {block!r} "
                "does not exist.",
                where=f"target {target!r} and the Prefect API; without one there are no secrets",
                mend=f"uv run python -m infrastructure.setup_secret {block}, which asks for the "
                "value",
            )
    model = create_model(
        "Arguments",
        __config__=ConfigDict(
            extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
        ),
        **{
            parameter: (
                hints.get(parameter, Any),
                ... if p.default is inspect.Parameter.empty else p.default,
            )
            for parameter, p in parameters.items()
        },  # type: ignore[call-overload]
    )
    try:
        model.model_validate(arguments)
    except ValidationError as error:
        faults = "; ".join(validation_faults(error))
        asked = ", ".join(
            f"{parameter} (required)" if p.default is inspect.Parameter.empty else parameter
            for parameter, p in parameters.items()
            if parameter not in hidden
        )
        raise ConfigurationError(
            f"The arguments of source {name!r} are wrong: {faults}. It takes: {asked or 'none'}.",
            where=f"the parameters of {sources.deployment_name(name, target)} in "
            f"{sources.FOLDER / name / 'prefect.yaml'}, and those that the run was given",
            mend="correct them in that file, or for one run of the pipeline: "
            f"--source-arguments '{{\"{name}\": {{…}}}}'",
        ) from None  # its input may be a secret
    return arguments
