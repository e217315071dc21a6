"""`millrace secret NAME`: store a secret from standard input in a Prefect block."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.documents import DocumentError, decode_utf8, parse_json
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.prefect_api import prefect_client
from prefect_flows.core.validation_messages import format_faults

app = typer.Typer(add_completion=False)


class Type(StrEnum):
    """Block types that job templates and deployments refer to."""

    SECRET = "secret"  # noqa: S105 (Prefect's slug)
    REGISTRY = "docker-registry-credentials"


@app.command()
@exits_with_expected_errors
def setup_secret(
    name: Annotated[str, typer.Argument(help="Name of the block.")],
    type_: Annotated[Type, typer.Option("--type", help="Type of the block.")] = Type.SECRET,
) -> None:
    """Create or replace a block. Its value comes from standard input, or from a prompt.

    For a Secret: one line of text, or a JSON object whose members templates refer to. For registry
    credentials: a JSON object with username, password and registry_url.
    """
    # Never an argument, since every user of the machine can see command lines.
    text = typer.prompt("Value", hide_input=True) if sys.stdin.isatty() else _read_stdin(name)
    value = _parse_value(text.strip(), name)
    block = _registry_block(value, name) if type_ is Type.REGISTRY else _secret_block(value)
    with prefect_client():
        block.save(name, overwrite=True)
    Console().print(f"{type_}/{name}: saved", highlight=False)


def _read_stdin(name: str) -> str:
    try:
        text = decode_utf8(sys.stdin.buffer.read())
    except DocumentError as error:
        raise _unreadable_error(
            str(error), name
        ) from None  # the decoder's error contains the secret
    if "\0" in text:
        raise _unreadable_error("it has a zero character", name)
    return text


def _unreadable_error(what: str, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"The value cannot be read: {what}.",
        where="standard input",
        fix=f"write it into FILE as UTF-8, then: uv run millrace secret {name} < FILE",
    )


def _parse_value(text: str, name: str) -> Any:
    if not text:
        raise ConfigurationError(
            "The value is empty.",
            where="standard input",
            fix=f"uv run millrace secret {name} < FILE",
        )
    if not text.startswith("{"):
        return text
    try:
        return parse_json(text)
    except DocumentError as error:
        raise ConfigurationError(
            f"The value looks like JSON but is not valid: {error}.",
            where="standard input",
            fix="correct it, for example with: python -m json.tool FILE",
        ) from None  # the decoder's error contains the text, which is a secret


def _secret_block(value: Any) -> Any:
    from prefect.blocks.system import Secret

    return Secret(value=value)


def _registry_block(value: Any, name: str) -> Any:
    from prefect_docker.credentials import DockerRegistryCredentials

    try:
        return DockerRegistryCredentials.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError(
            f"These are not registry credentials: {format_faults(error)}.",
            where="standard input",
            fix='give {"username": …, "password": …, "registry_url": …} to '
            f"uv run millrace secret {name} --type {Type.REGISTRY}",
        ) from None  # its input is a secret
