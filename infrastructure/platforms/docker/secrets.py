"""`python -m infrastructure.platforms.docker.secrets`: create the secrets that compose.yaml mounts.

Creates the missing files, and keeps the others. Compose mounts a file with its permissions on the
host, and the containers' users have other ids than yours; so everybody can read the files, but only
their owner can enter the folder.
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
# Each target builds into its own schema of Compose's warehouse.
TARGETS = ("dev", "staging", "prod")

app = typer.Typer(add_completion=False)


def build_warehouse(password: str) -> dict[str, Any]:
    """Return the block `warehouse-postgres`: Compose's warehouse, for flow runs in its network."""
    return {
        "host": "warehouse",
        "port": 5432,
        "database": "warehouse",
        "user": "millrace",
        "password": password,
    }


def build_outputs(password: str) -> dict[str, Any]:
    """Return the targets in Compose's warehouse, as Terraform would output them."""
    connection = build_warehouse(password)
    connection.pop("password")
    targets = {
        name: {"type": "postgres", **connection, "schema": f"dbt_{name}", "threads": 4}
        for name in TARGETS
    }
    return {
        "dbt_targets": {"value": targets},
        "dbt_target_secrets": {
            "sensitive": True,
            "value": {name: {"password": password} for name in TARGETS},
        },
    }


def create_secrets(folder: Path) -> dict[str, bool]:
    """Create the missing files; return name → whether it was created.

    Raises:
        ConfigurationError: the folder is not writable.
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
            ("warehouse-postgres.json", build_warehouse(password)),
            ("terraform-outputs.json", build_outputs(password)),
            # Registry credentials cannot be generated.
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
    file.chmod(FILE_MODE)  # independent of the umask
    return True


def _password() -> str:
    # Only letters and digits, so that URLs and files need no escaping.
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
    for name, was_made in create_secrets(folder).items():
        console.print(f"{folder / name}: {'made' if was_made else 'stays'}", soft_wrap=True)


if __name__ == "__main__":
    app()
