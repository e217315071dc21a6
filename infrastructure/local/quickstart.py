"""`uv run quickstart`: run the three public commands one after another."""

from __future__ import annotations

import shlex
import subprocess
import sys

import typer
from rich.console import Console

from infrastructure.local import prefect_server
from infrastructure.local.files import lock_local_dir
from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors
from prefect_flows.core.profiles import profile_from_file
from prefect_flows.core.settings import Settings, load_settings
from prefect_flows.core.temporary_folders import private_folder

TARGET = "dev"
COMMANDS = (
    "millrace up",
    "millrace setup",
    f"millrace run --target {TARGET}",
)
NEXT = """\
What next:
  uv run millrace report serve               the report of this run, and the page over all targets
  {ui_url:<41}  the run in Prefect's UI
  documentation/tutorial.md                  add a source and a model of your own
  {build:<41}  work on the models, without Prefect
  uv run millrace run                        run the pipeline again
  uv run millrace pools --pool default-pool  make a work pool
  uv run millrace deploy dev                 deploy it: documentation/deployments.md
  uv run millrace down                       stop both servers"""


@exits_with_expected_errors
def quickstart() -> None:
    """Start both servers, run setup, then ingest the sources, build and test the models."""
    console = Console()
    settings = load_settings()
    with lock_local_dir(settings.local_dir, "quickstart"):
        *before, run = COMMANDS
        for command in (*before, " ".join([run, shlex.join(settings.quickstart_options)]).strip()):
            console.print(f"\n[bold]$ uv run {command}[/bold]", soft_wrap=True)
            program = [sys.executable, "-m", "infrastructure.cli", *shlex.split(command)[1:]]
            code = subprocess.run(program, cwd=settings.project_dir, check=False).returncode
            if code == EXIT_FAILED and command.startswith(run):
                print_missing_sources(console, settings, TARGET)
            if code != 0:
                raise typer.Exit(code)
    server = prefect_server.find_server(settings.local_dir)
    ui_url = "uv run millrace status" if server is None else server.ui_url
    build = f"{settings.enter_dbt_dir}uv run dbt build"
    hints = NEXT.format(ui_url=ui_url, build=build)
    console.print(f"\n{hints}", highlight=False, soft_wrap=True)


def print_missing_sources(console: Console, settings: Settings, target: str) -> None:
    """Name the source tables that a target does not have: what reads them cannot be built."""
    from prefect_flows.transform.session import DbtSession

    profile = profile_from_file(settings.profiles_file, target, settings.dbt_dir)
    with (
        private_folder("sources") as folder,
        DbtSession(settings.dbt_dir, profile, folder, {}) as session,
    ):
        missing = session.find_absent_source_tables()
    if missing:
        console.print(
            f"\nThe target {target} does not have these source tables: {', '.join(missing)}.\n"
            f"  where: {profile.address}\n"
            "  fix:   load them: documentation/how_to/add_a_source.md; or build a target that has "
            "them: uv run millrace run --target NAME",
            markup=False,
            soft_wrap=True,
        )


def main() -> None:
    """Run the quickstart: entry point of the console script."""
    typer.run(quickstart)
