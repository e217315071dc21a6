"""Builds the arguments of a source function from the run, `prefect.yaml` and Secret blocks.

A parameter annotated as a dlt secret (`dlt.TSecretStrValue`) is read from the Secret block named
after the source, the parameter and the target. Every other parameter comes from the run, else from
the target's deployment in the source's `prefect.yaml`, else from its default.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from dlt.common.configuration.specs.base_configuration import is_secret_hint
from dlt.extract import DltSource
from pydantic import ConfigDict, ValidationError, create_model

from prefect_flows.core.date_window import DateWindow
from prefect_flows.core.documents import DocumentError, check_storable
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.names import secret_block, secret_block_variable
from prefect_flows.core.passwords import find_passwords
from prefect_flows.core.settings import load_settings
from prefect_flows.core.validation_messages import format_faults
from prefect_flows.ingest import source_registry

# Returns the value of a Secret block, or None if the block does not exist.
Secrets = Callable[[str], Any | None]


def resolve_location(url: str) -> str:
    """Resolve a folder's path or URL; a relative path starts at the project folder."""
    if "://" in url or url.startswith("~"):
        return url
    return str(load_settings().project_dir / url)


def source_function(name: str) -> Callable[..., DltSource]:
    """Import the dlt source function of a source.

    Raises:
        ConfigurationError: the source does not exist, or its dependencies are not installed.
    """
    source_registry.require_source(name)
    module = f"{source_registry.PACKAGE}.{name}.source"
    try:
        function: Callable[..., DltSource] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Source {name!r} cannot be imported: {error}.",
            where=module,
            fix="install what it imports: uv sync --all-packages",
        ) from error
    return function


def refuse_secrets(
    given: Mapping[str, Mapping[str, Any]], target: str, vars: Mapping[str, Any] | None = None
) -> None:
    """Refuse secrets in values that Prefect, the state store and reports show to every reader.

    Args:
        given: arguments by source.
        vars: variables of the dbt project.

    Raises:
        ConfigurationError: an argument belongs in a Secret block, or a URL contains a password. The
            error does not show the value.
    """
    for name, arguments in given.items():
        hints = _hints(source_function(name))
        for parameter in arguments:
            if is_secret_hint(hints.get(parameter, Any)):
                raise _exposed_secret_error(
                    f"{parameter!r} of source {name!r} is a secret",
                    f"{name}.{parameter}",
                    _set_secret_command(secret_block(name, parameter, target)),
                )
        for place in find_passwords(arguments, name):
            raise _exposed_secret_error(
                "A URL has a password, or a name says that its value is a secret",
                place,
                "take it out; the source's README names its secrets, such as "
                "`storage_options` of files__inbox",
            )
    for place in find_passwords(dict(vars or {}), "vars"):
        raise _exposed_secret_error(
            "A URL has a password, or a name says that its value is a secret",
            place,
            "take it out, and let the model read it: env_var('DBT_ENV_SECRET_…')",
        )


def _exposed_secret_error(what: str, place: str, how: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what}, and everyone who can see a run can read its arguments.",
        where=f"argument {place}",
        fix=f"{how}. If the value is real, rotate it: it may be in this shell's history, and in "
        "the parameters of the flow run or the deployment",
    )


def _set_secret_command(block: str) -> str:
    return (
        f"uv run millrace secret {block}, which asks for the value; for "
        f"--no-prefect set {secret_block_variable(block)} in the environment or in .env"
    )


def _hints(function: Callable[..., DltSource]) -> dict[str, Any]:
    return get_type_hints(inspect.unwrap(function), include_extras=True)


def build_source_arguments(
    name: str,
    target: str,
    given: Mapping[str, Any],
    secrets: Secrets,
    window: DateWindow | None = None,
) -> dict[str, Any]:
    """Validate the arguments of a source for a target and add its secrets.

    Args:
        given: arguments of the run; they override those configured for the target.
        window: the days of a backfill, for a source that can load single days.

    Raises:
        ConfigurationError: an argument is unknown, missing, of the wrong type or a secret, or the
            Secret block of a required secret does not exist.
    """
    function = source_function(name)
    hints = _hints(function)
    signature = inspect.signature(function).parameters
    parameters = {p: value for p, value in signature.items() if p != source_registry.WINDOW}
    secret_parameters = {p for p in parameters if is_secret_hint(hints.get(p, Any))}
    arguments = source_registry.configured_arguments(name, target) | dict(given)
    refuse_secrets({name: arguments}, target)
    for parameter in secret_parameters:
        block = secret_block(name, parameter, target)
        value = secrets(block)
        if value is not None:
            # A block may hold a JSON object; the source expects its text.
            text = value if isinstance(value, str) else json.dumps(value)
            try:
                check_storable(text)
            except DocumentError as error:
                raise ConfigurationError(
                    f"The secret for {parameter!r} of source {name!r} cannot be used: {error}.",
                    where=f"block {block!r}, or variable {secret_block_variable(block)}",
                    fix=_set_secret_command(block),
                ) from None  # the original error contains the secret
            arguments[parameter] = text
        elif parameters[parameter].default is inspect.Parameter.empty:
            raise ConfigurationError(
                f"Source {name!r} needs a secret for its {parameter!r}, and block {block!r} "
                "does not exist.",
                where=f"target {target!r} and the Prefect API",
                fix=_set_secret_command(block),
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
        faults = format_faults(error)
        allowed = ", ".join(
            f"{parameter} (required)" if p.default is inspect.Parameter.empty else parameter
            for parameter, p in parameters.items()
            if parameter not in secret_parameters
        )
        raise ConfigurationError(
            f"The arguments of source {name!r} are wrong: {faults}. It takes: {allowed or 'none'}.",
            where=f"the parameters of {source_registry.deployment_name(name, target)} in "
            f"{source_registry.get_sources_dir() / name / 'prefect.yaml'}, and those that the run "
            "was given",
            fix="correct them in that file, or for one run of the pipeline: "
            f"--source-arguments '{{\"{name}\": {{…}}}}'",
        ) from None  # the original error may contain a secret
    if window is not None and source_registry.WINDOW in signature:
        arguments[source_registry.WINDOW] = window
    return arguments
