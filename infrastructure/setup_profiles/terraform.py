"""Read Terraform's outputs from a file, standard input, or `terraform output`."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from infrastructure.local.postgres import outputs_file
from infrastructure.setup_profiles import contract
from infrastructure.setup_profiles.contract import Contract
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.formatting import one_line
from prefect_flows.core.names import LOCAL_UP_COMMAND
from prefect_flows.core.project_folder import has_engine
from prefect_flows.core.settings import Settings

STDIN = "-"


def read_contract(settings: Settings, outputs: str | None, terraform_dir: Path | None) -> Contract:
    """Read and validate the outputs.

    Without either argument, it reads the outputs of the embedded Postgres if it has been started,
    otherwise `terraform-outputs.json`: in a clone that of `infrastructure`, else of the project.

    Raises:
        ConfigurationError: there are no outputs, or Terraform fails.
        ContractError: the outputs are invalid.
    """
    if terraform_dir is not None:
        command = f"terraform -chdir={terraform_dir} output -json"
        return contract.parse_contract(
            _run_terraform(terraform_dir),
            where=command,
            fix=f"terraform -chdir={terraform_dir} apply",
        )
    if outputs == STDIN:
        return contract.parse_contract(
            sys.stdin.buffer.read(),
            where="standard input",
            fix="pipe `terraform output -json` into it",
        )
    file = Path(outputs) if outputs is not None else _default_file(settings)
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"Terraform's outputs cannot be read: {error.strerror}.",
            where=str(file),
            fix="make them: terraform -chdir=DIR output -json > "
            f"{shlex.quote(str(file))}; or start the embedded default: {LOCAL_UP_COMMAND}",
        ) from error
    fix = f"terraform -chdir=DIR output -json > {shlex.quote(str(file))}"
    return contract.parse_contract(text, where=str(file), fix=fix)


def _default_file(settings: Settings) -> Path:
    embedded = outputs_file(settings.local_dir)
    if embedded.exists():
        return embedded
    folder = "infrastructure" if has_engine(settings.project_dir) else ""
    return settings.project_dir / folder / "terraform-outputs.json"


def _run_terraform(folder: Path) -> str:
    program = shutil.which("terraform")
    if program is None:
        raise ConfigurationError(
            "Terraform is not installed.",
            where="PATH",
            fix="install it, or make the outputs elsewhere and give them with --outputs FILE",
        )
    # Terraform writes warnings to stderr, which must not get into the JSON.
    done = subprocess.run(
        [program, f"-chdir={folder}", "output", "-json"],
        capture_output=True, encoding="utf-8", errors="backslashreplace", check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        chdir = shlex.quote(f"-chdir={folder}")
        raise ConfigurationError(
            f"Terraform gives no outputs: {one_line(done.stderr)}",
            where=str(folder),
            fix=f"terraform {chdir} init && terraform {chdir} apply",
        )
    return done.stdout
