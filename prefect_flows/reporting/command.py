"""`millrace report serve|index`: the pages of the state store."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer
from rich.console import Console

from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError, PrefectUnreachable
from prefect_flows.core.settings import Settings, load_settings
from prefect_flows.state.store import StateStore

app = typer.Typer(help="The pages of the state store.", no_args_is_help=True)
Url = Annotated[
    str | None,
    typer.Option(help="The state store; by default the one that a run of this machine has."),
]


@app.command()
@exits_with_expected_errors
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8088,
    state_url: Url = None,
) -> None:
    """Show the pages at 127.0.0.1, and the metrics at /metrics, until Ctrl-C."""
    from prefect_flows.reporting.overview import serve as server

    console = Console()
    store = _open_store(state_url)
    say = f"from {store.url}; stop with Ctrl-C"
    server.serve(store, port, lambda url: console.print(f"Pages: {url} ({say})", soft_wrap=True))
    console.print("Stopped.")


@app.command()
@exits_with_expected_errors
def index(state_url: Url = None) -> None:
    """Write index.html, the page over all targets, once more."""
    from prefect_flows.reporting.overview.index_page import INDEX, write_index

    store = _open_store(state_url)
    write_index(store)
    Console().print(f"Written: {store.url}/{INDEX}", soft_wrap=True)


def _open_store(state_url: str | None) -> StateStore:
    """Open the store of the option, else the one that a run on this machine uses.

    Raises:
        ConfigurationError: no run has used that store.
    """
    settings = load_settings()
    store = _find_configured_store(settings, state_url)
    if not store.names("targets"):
        raise ConfigurationError(
            "There is no state store with runs in it.",
            where=store.url,
            fix="run the pipeline: uv run millrace run; or name the store "
            "with --state-url or MILLRACE_STATE_URL",
        )
    return store


def _find_configured_store(settings: Settings, state_url: str | None) -> StateStore:
    """Return the configured store; warn and use the default if Prefect does not answer."""
    from prefect_flows.core.prefect_api import prefect_client
    from prefect_flows.state.configured_store import configured_store

    url = state_url or settings.state_url
    if url is not None and "://" not in url:
        return StateStore(url)
    with ExitStack() as contexts:
        try:
            client = contexts.enter_context(prefect_client())
        except (PrefectUnreachable, ConfigurationError) as error:
            message = f"Cannot read the state store's address from Prefect: {error.what}"
            Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)
            return StateStore(url or settings.default_state_url)
        return configured_store(settings, client, url)
