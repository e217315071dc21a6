"""`millrace up|status|down`: start, check and stop the embedded servers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infrastructure.local import postgres, prefect_server
from infrastructure.local.files import lock_local_dir
from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.errors import ServerError
from prefect_flows.core.settings import load_settings

UP_WAIT_SECONDS = 300.0

app = typer.Typer(
    help="The embedded Postgres and the Prefect server of this machine.", no_args_is_help=True
)


@app.command()
@exits_with_expected_errors
def up(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the Prefect server.")
    ] = None,
) -> None:
    """Start both servers, or find them running. They stay up until `down`."""
    console = Console()
    settings = load_settings()
    local = settings.local_dir
    with lock_local_dir(local, "local-up", UP_WAIT_SECONDS):
        console.print("Prefect server: starting (the first time takes a while)")
        ran_before = prefect_server.find_server(local) is not None
        server = prefect_server.launch(settings.project_dir, local, port)
        console.print("Postgres: starting")
        try:
            database = postgres.start(local)
        except ServerError:
            if not ran_before:
                prefect_server.stop(settings.project_dir, local)
            raise
        console.print(f"Postgres: ready, {database.host} port {database.port}", soft_wrap=True)
        server = prefect_server.wait_until_healthy(server, settings.project_dir, local, port)
        console.print(f"Prefect server: ready, {server.ui_url}", soft_wrap=True)
        console.print(_password_hint(local), soft_wrap=True)


@app.command()
@exits_with_expected_errors
def status() -> None:
    """Say whether both run; exit code 1 when one does not."""
    console = Console()
    settings = load_settings()
    server = prefect_server.find_server(settings.local_dir)
    prefect_up = server is not None and server.is_healthy()
    postgres_up = postgres.is_running(settings.local_dir)
    console.print(f"Postgres: {'running' if postgres_up else 'not running'}")
    place = f", {server.ui_url}" if prefect_up and server is not None else ""
    console.print(f"Prefect server: {'running' if prefect_up else 'not running'}{place}")
    if prefect_up and server is not None:
        if server.accepts():
            console.print("It asks for no password: every user and web page can use it.")
            console.print(f"To change that, {prefect_server.RESTART_COMMANDS}", soft_wrap=True)
        else:
            console.print(_password_hint(settings.local_dir), soft_wrap=True)
    if not (postgres_up and prefect_up):
        raise typer.Exit(1)


@app.command()
@exits_with_expected_errors
def down() -> None:
    """Stop both servers; what they hold stays."""
    console = Console()
    settings = load_settings()
    with lock_local_dir(settings.local_dir, "local-up", UP_WAIT_SECONDS):
        stopped = prefect_server.stop(settings.project_dir, settings.local_dir)
        console.print(f"Prefect server: {'stopped' if stopped else 'was not running'}")
        stopped = postgres.stop(settings.local_dir)
        console.print(f"Postgres: {'stopped' if stopped else 'was not running'}")


def _password_hint(local_dir: Path) -> str:
    file = shlex.quote(str(prefect_server.auth_file(local_dir)))
    return f"To log in to its pages, paste what this prints: cat {file}"
