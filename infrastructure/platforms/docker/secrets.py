"""`python -m infrastructure.platforms.docker.secrets`: the secrets that compose.yaml mounts.

Makes those that are missing and leaves the others as they are. Compose mounts a file with the
permissions that it has here, and the containers' users have other numbers than yours; so the files
can be read by all, and the folder that they lie in can be entered by its owner alone.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.files import write_file
from prefect_flows.core.settings import load_settings

FOLDER_MODE = 0o700
FILE_MODE = 0o444
# Each Postgres target of compose's warehouse builds into a schema of its own.
TARGETS = ("dev", "staging", "prod")

app = typer.Typer(add_completion=False)


def warehouse(password: str) -> dict[str, Any]:
    """Where compose's warehouse is, for flow runs beside it: the block `warehouse-postgres`."""
    return {
        "host": "warehouse",
        "port": 5432,
        "database": "warehouse",
        "user": "millrace",
        "password": password,
    }


def outputs(password: str) -> dict[str, Any]:
    """The targets on compose's warehouse, as Terraform would give them."""
    place = warehouse(password)
    place.pop("password")
    targets = {
        name: {"type": "postgres", **place, "schema": f"dbt_{name}", "threads": 4}
        for name in TARGETS
    }
    return {
        "dbt_targets": {"value": targets},
        "dbt_target_secrets": {
            "sensitive": True,
            "value": {name: {"password": password} for name in TARGETS},
        },
    }


def make(folder: Path) -> dict[str, bool]:
    """Make the files that are missing: name → whether it was made.

    Raises:
        ConfigurationError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(FOLDER_MODE)
        made = {
            "database-password": _write(folder / "database-password", _password()),
            "api-auth-string": _write(folder / "api-auth-string", f"millrace:{_password()}"),
            "warehouse-password": _write(folder / "warehouse-password", _password()),
        }
        password = (folder / "warehouse-password").read_text()
        for name, document in (
            ("warehouse-postgres.json", warehouse(password)),
            ("terraform-outputs.json", outputs(password)),
            # Nobody but you knows these.
            ("registry.json", {}),
        ):
            made[name] = _write(folder / name, json.dumps(document, indent=2))
    except OSError as error:
        raise ConfigurationError(
            f"The secrets cannot be written: {error.strerror}.",
            where=str(error.filename or folder),
            fix="give yourself write permission there, or name another --folder and set "
            "SECRETS_DIR to it",
        ) from error
    return made


def _write(file: Path, text: str) -> bool:
    if file.exists():
        return False
    write_file(file, text.encode(), FILE_MODE)
    file.chmod(FILE_MODE)  # whatever the umask
    return True


def _password() -> str:
    # Letters and digits: it goes into URLs and files as it is.
    return secrets.token_hex(24)


@app.command()
@exits_with_expected_errors
def main(
    folder: Annotated[
        Path | None, typer.Option(help="Where they are made; .local/secrets by default.")
    ] = None,
) -> None:
    """Make the files that compose.yaml mounts as secrets; those that exist stay as they are."""
    console = Console()
    folder = folder or load_settings().local_dir / "secrets"
    for name, was_made in make(folder).items():
        console.print(f"{folder / name}: {'made' if was_made else 'stays'}", soft_wrap=True)


if __name__ == "__main__":
    app()
