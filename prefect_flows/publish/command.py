"""`millrace publish`: what readers of a target see, and the way back to the previous version."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.names import SETUP_COMMAND
from prefect_flows.core.postgres import connect
from prefect_flows.core.prefect_api import load_profile, prefect_client
from prefect_flows.core.profiles import Profile, profile_from_file
from prefect_flows.core.projects import load_projects
from prefect_flows.core.settings import load_settings
from prefect_flows.publish.postgres.warehouse import PostgresPublisher
from prefect_flows.publish.publisher import PublishedState, Publisher
from prefect_flows.publish.readers import describe_readers
from prefect_flows.state.configured_store import configured_store
from prefect_flows.state.run_summary import save_published
from prefect_flows.state.store import StateStore

# Enough of a run's id to recognize it.
RUN_ID_LENGTH = 8

app = typer.Typer(add_completion=False)


@app.command()
@exits_with_expected_errors
def publish(
    target: Annotated[str, typer.Option(help="Name of the target.")],
    previous: Annotated[
        bool, typer.Option("--previous", help="Show readers the previous version again.")
    ] = False,
    no_prefect: Annotated[
        bool,
        typer.Option("--no-prefect", help="Without a Prefect API: the target of profiles.yml."),
    ] = False,
) -> None:
    """Show which runs' data readers see; or show them the previous version again.

    The previous version of a model is kept until the next run builds the model.
    """
    profile, store = _load_target(target, no_prefect=no_prefect)
    if not profile.publishes:
        raise ConfigurationError(
            f"Target {target!r} does not publish.",
            where=profile.address,
            fix="set publish = true for it in Terraform (documentation/publishing.md), then: "
            f"{SETUP_COMMAND} --target {target}",
        )
    publisher = _open_publisher(profile)
    if previous:
        log = logging.getLogger("millrace")
        models = publisher.show_previous(log)
        typer.echo(f"Readers see the previous version of {len(models)} models again.")
    states = publisher.read_states()
    published = describe_readers(states.values())
    if previous:
        save_published(
            store,
            target,
            published.model_copy(update={"blocked": ["millrace publish --previous"]}),
        )
    by_name = {str(model): states[model.unique_id] for model in publisher.models}
    _print(published.sentence(), by_name)


def _load_target(target: str, *, no_prefect: bool) -> tuple[Profile, StateStore]:
    settings = load_settings()
    if no_prefect:
        profile = profile_from_file(settings.profiles_file, target, settings.dbt_dir)
        return profile, StateStore(settings.state_url or settings.default_state_url)
    with prefect_client() as client:
        profile = load_profile(client, target, load_projects(settings))
        return profile, configured_store(settings, client)


def _open_publisher(profile: Profile) -> Publisher:
    if profile.warehouse == "bigquery":
        # This imports Google's client, which a Postgres target does not need.
        from prefect_flows.core.bigquery import open_client
        from prefect_flows.publish.bigquery.warehouse import BigQueryPublisher

        return BigQueryPublisher.from_records(profile, lambda: closing(open_client(profile)))

    @contextmanager
    def open_connection() -> Iterator[Any]:
        with closing(connect(profile, "millrace publish")) as connection:
            yield connection

    return PostgresPublisher.from_records(profile, open_connection)


def _print(sentence: str, states: dict[str, PublishedState]) -> None:
    table = Table("model", "run", "since (UTC)", "previous run")
    for name, state in states.items():
        since = f"{state.live_since:%Y-%m-%d %H:%M:%S}" if state.live_since else ""
        ids = [i[:RUN_ID_LENGTH] if i else "none" for i in (state.live_run, state.previous_run)]
        table.add_row(*map(Text, (name, ids[0], since, ids[1])))
    console = Console()
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
