"""What a warehouse has to do so that models can be published there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from prefect_flows.core.logger import Logger
from prefect_flows.publish.models import PublishedModel

if TYPE_CHECKING:
    from prefect_flows.transform.session import DbtSession


class PublishedState(Protocol):
    """What readers see of a model now, and which runs built it."""

    @property
    def live_run(self) -> str | None:
        """The run that built what readers see; None if the model was never published."""

    @property
    def live_since(self) -> datetime | None:
        """When it was published, UTC."""

    @property
    def previous_run(self) -> str | None:
        """The run whose rows `show_previous` shows; None if there are none."""

    @property
    def build_run(self) -> str | None:
        """The run that last built the model out of sight."""

    @property
    def is_edited(self) -> bool:
        """Whether the published rows were changed by hand; BigQuery does not tell."""


class Publisher(Protocol):
    """The published models of a target. All methods raise `PublishError`.

    Attributes:
        models: all published models of the project.
    """

    models: list[PublishedModel]

    def connected(self) -> AbstractContextManager[None]:
        """Keep a connection open for all calls while the context is open."""

    def check(self, built: Sequence[PublishedModel]) -> None:
        """Check what can keep these models from being published, before anything is changed."""

    def read_states(self) -> Mapping[str, PublishedState]:
        """Return id → what readers see of each model."""

    def prepare(
        self,
        built: Sequence[PublishedModel],
        executed: Collection[str],
        run: str,
        resumed_run: str | None,
        *,
        full_refresh: bool,
        log: Logger,
    ) -> dict[str, Any]:
        """Prepare what dbt builds into; return a record.

        Args:
            built: the models that this run builds, or has built before it was resumed.
            executed: ids of those that dbt executes now.
            run: id of this run.
            resumed_run: id of the run that this one resumes.
            full_refresh: whether models start without their rows.
            log: gets what takes long.
        """

    def get_schemas(self, built: Collection[str], run: str) -> dict[str, str]:
        """Return id → the schema in which dbt finds a model during a run, if not in its own.

        Args:
            built: ids of the models that the run builds.
            run: its id.
        """

    def switch(self, models: Sequence[PublishedModel], run: str, log: Logger) -> float:
        """Show readers the rows that a run built; repeating it changes nothing.

        Returns:
            Seconds from the first change that readers could notice to the last one.
        """

    def show_previous(self, log: Logger) -> list[PublishedModel]:
        """Show readers the rows of the run before again; return the models that changed."""


def create_publisher(session: DbtSession, models: Sequence[PublishedModel]) -> Publisher:
    """Return the publisher for the warehouse of a session.

    Args:
        session: the dbt project and its target.
        models: all published models of the project.
    """
    if session.profile.warehouse == "bigquery":
        # This imports Google's client, which a run on Postgres does not need.
        from prefect_flows.publish.bigquery.warehouse import BigQueryPublisher

        parents = session.manifest.parent_map
        return BigQueryPublisher(session.profile, session.connection, models, parents)
    from prefect_flows.publish.postgres.warehouse import PostgresPublisher

    return PostgresPublisher(session.profile, session.connection, models)
