"""`python -m infrastructure.platforms.docker.parse_project FOLDER`: last step of the image build.

Parses the dbt project for each target, so that the first run in a new container can use dbt's
partial parsing (`MILLRACE_PARSED_DIR`). dbt reuses a parsed project only for the same target and
connection, ignoring passwords, so the build needs Terraform's `dbt_targets`, in the build argument
`DBT_TARGETS`. Without them the project is parsed once, to fail the build if it does not parse, and
the first run parses again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infrastructure.setup_profiles import contract
from infrastructure.setup_profiles.contract import Contract
from infrastructure.setup_profiles.desired import build_profile, desired_blocks
from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.profiles import Profile, read_profile_name
from prefect_flows.core.settings import load_settings
from prefect_flows.state.target_state import PARTIAL_PARSE
from prefect_flows.transform.session import DbtSession

ARGUMENT = "DBT_TARGETS"


def parse_targets(text: str, *, where: str) -> Contract:
    """Parse Terraform's outputs, and check that they contain no secrets.

    Raises:
        ContractError: the outputs are invalid.
        ConfigurationError: they contain secrets, which would stay in the image's layers.
    """
    found = contract.parse_contract(
        text, where=where, fix="terraform -chdir=DIR output -json, without dbt_target_secrets"
    )
    if found.secrets:
        raise ConfigurationError(
            "Terraform's outputs hold secrets, and what an image is built with stays readable.",
            where=f"{where}: dbt_target_secrets of {', '.join(found.secrets)}",
            fix="terraform -chdir=DIR output -json | jq 'del(.dbt_target_secrets)' > FILE, "
            "then --outputs FILE",
        )
    return found


def build_profiles(text: str, dbt_dir: Path) -> list[Profile]:
    """Return the profile of each target in the outputs, or a dummy profile without outputs."""
    name = read_profile_name(dbt_dir)
    if text.strip():
        known = parse_targets(text, where=f"the build argument {ARGUMENT}")
        blocks = desired_blocks(known, name)
        return [build_profile(blocks, target) for target in known.targets]
    output = {
        "type": "postgres", "host": "localhost", "port": 5432, "user": "nobody",
        "dbname": "nowhere", "schema": "nothing", "threads": 1, "password": "",
    }  # fmt: skip
    return [Profile.from_output(name, "none", output)]


def parse(dbt_dir: Path, profile: Profile, folder: Path) -> Path:
    """Parse the project for a target; return the partial parse file.

    Raises:
        ProjectError: the project does not parse, or its packages cannot be installed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="millrace-parse-") as target_path,
        DbtSession(dbt_dir, profile, Path(target_path), {}) as session,
    ):
        if session.has_packages():
            session.install_packages()
        assert session.manifest is not None  # noqa: S101 # what reads it parses
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(Path(target_path, PARTIAL_PARSE), folder / PARTIAL_PARSE))


@exits_with_expected_errors
def main(
    folder: Annotated[Path, typer.Argument(help="Where the parsed project is left.")],
) -> None:
    """Parse the dbt project for each target of the build argument DBT_TARGETS."""
    console = Console()
    settings = load_settings()
    text = os.environ.get(ARGUMENT, "")
    for profile in build_profiles(text, settings.dbt_dir):
        file = parse(settings.dbt_dir, profile, folder / profile.target)
        if text.strip():
            console.print(f"{profile.target}: parsed, {file.stat().st_size / 1e6:.1f} MB")
        else:
            shutil.rmtree(file.parent)
            console.print(f"The project parses. No {ARGUMENT}: a container's first run parses it.")
    folder.mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    typer.run(main)
