"""Publishing on BigQuery: checks, preparation of the build tables, the switch, the way back.

What publishing adds per model: one clone job, which keeps the version before, and one copy job. A
model that keeps its rows takes a second clone job. None of them processes bytes or is charged for.
That is 6 requests to the API per model, or 10 for a model that keeps its rows. Each run adds three
load jobs for the records, which are free too, and some 20 requests. Storage: the version before is
kept, as a clone, which is charged for as far as the published table has other rows. Build tables
are dropped once they are published.

BigQuery has no transaction over several tables. Each model is replaced in one atomic step, its
parents first. While that lasts, readers may see some models in their new version and others in the
one before. The records say that a switch has begun before its first job is sent: if the run is
killed in between, the next run completes it.

Views of readers that use a column that is gone are not looked for: BigQuery only finds out when
they are queried, and reading all definitions of a project takes a query that is charged for.
Privileges are not asked for either: a missing one fails the run before readers see a change.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import requests
from google.api_core.exceptions import GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError
from google.cloud.bigquery import Client, Dataset, DatasetReference, Table, TableReference

from prefect_flows.core.errors import PublishError
from prefect_flows.core.failure_class import FailureClass, classify
from prefect_flows.core.hints import get_google_hint
from prefect_flows.core.logger import Logger
from prefect_flows.core.profiles import Profile
from prefect_flows.publish.bigquery.jobs import TableJobs, wait_for
from prefect_flows.publish.bigquery.records import (
    Place,
    Record,
    Records,
    build_dataset,
    own_dataset,
    previous_dataset,
)
from prefect_flows.publish.models import DEFAULT_GROUP, PublishedModel, find_ancestors

MAX_DATASET_NAME = 1024
# The id of a switch begins with what it shows.
NEW_VERSION, PREVIOUS_VERSION = "new", "previous"

Connect = Callable[[], AbstractContextManager[Any]]


class BigQueryPublisher:
    """The published models of a BigQuery target.

    Args:
        profile: the target's profile.
        connect: opens BigQuery's client as dbt does.
        models: all published models of the project.
        parents: node id → ids of its parents.
    """

    def __init__(
        self,
        profile: Profile,
        connect: Connect,
        models: Sequence[PublishedModel],
        parents: Mapping[str, Sequence[str]],
    ) -> None:
        self._profile = profile
        output = profile.output
        self._project = str(output.get("project") or output.get("database"))
        self._target_dataset = str(output.get("schema") or output.get("dataset"))
        self._connect = connect
        self.models = list(models)
        self._levels = _get_levels(self.models, parents)

    @classmethod
    def from_records(cls, profile: Profile, connect: Connect) -> BigQueryPublisher:
        """Open the publisher with the models that were published, without the dbt project.

        It does not know which model reads which, so it shows all of them at the same time.
        """
        publisher = cls(profile, connect, [], {})
        with publisher._client() as client:
            publisher.models = [
                PublishedModel(
                    unique_id=f"{place.project}.{place}",
                    database=place.project,
                    schema=place.dataset,
                    name=place.name,
                    group=DEFAULT_GROUP,
                    keeps_rows=False,
                    unique_key=(),
                )
                for place in sorted(publisher._records(client).read())
            ]
        return publisher

    def connected(self) -> AbstractContextManager[None]:
        """Do nothing: BigQuery's client has no connection."""
        return nullcontext()

    def read_states(self) -> dict[str, Record]:
        """Return id → what readers see of each model."""
        with self._client() as client:
            records = self._records(client).read()
        return {model.unique_id: records.get(self._place(model), Record()) for model in self.models}

    def get_schemas(self, built: Collection[str], run: str) -> dict[str, str]:
        """Return id → the dataset in which dbt finds each model that this run has built.

        Other models are where dbt has them: `<dataset>` holds their published rows.

        Args:
            built: ids of the models that the run builds.
            run: its id.
        """
        states = self.read_states()
        return {
            model.unique_id: build_dataset(model.schema)
            for model in self.models
            if model.unique_id in built and states[model.unique_id].build_run == run
        }

    def check(self, built: Sequence[PublishedModel]) -> None:
        """Check names, locations and kinds of relations, before anything is changed.

        Raises:
            PublishError: lists every fault.
        """
        datasets = sorted({(self._project_of(model), model.schema) for model in built})
        faults = [
            f"the dataset name {name!r} has other characters than letters, digits and _, or more "
            f"than {MAX_DATASET_NAME}"
            for _, schema in datasets
            for name in (build_dataset(schema), previous_dataset(schema))
            if len(name) > MAX_DATASET_NAME or not re.fullmatch(r"\w+", name, re.ASCII)
        ]
        if not faults:
            with self._client() as client:
                faults = [
                    *self._find_misplaced(client, datasets),
                    *self._find_others(client, built),
                ]
        if faults:
            raise PublishError(
                f"The marts cannot be published: {'; '.join(faults)}.",
                where=self._profile.address,
                fix="move or drop what is named, or change the target's dataset or location",
            )

    def _find_misplaced(self, client: Client, datasets: Sequence[tuple[str, str]]) -> list[str]:
        """Return a fault for each dataset that is not where the others are."""
        found = {}
        for project, name in [
            *((p, n) for p, schema in datasets for n in _all_datasets(schema)),
            (self._project, own_dataset(self._target_dataset)),
        ]:
            dataset = _find_dataset(client, project, name)
            if dataset is not None:
                found[name] = str(dataset.location)
        expected = self._profile.output.get("location") or next(iter(found.values()), "")
        return [
            f"the dataset {name} is in {location} and not in {expected}"
            for name, location in found.items()
            if location.lower() != str(expected).lower()
        ]

    def _find_others(self, client: Client, built: Sequence[PublishedModel]) -> list[str]:
        """Return a fault for each relation that no copy job can replace."""
        places = {self._place(model) for model in built}
        kinds = {}
        for project, dataset in {(place.project, place.dataset) for place in places}:
            for item in _list_tables(client, project, dataset):
                kinds[Place(project, dataset, item.table_id)] = item.table_type
        return [
            f"{place} is a relation of type {kinds[place]}, not a table or view"
            for place in sorted(places)
            if kinds.get(place) in ("EXTERNAL", "SNAPSHOT")
        ]

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
        """Complete the switch of a killed run, then prepare the build tables.

        `Publisher.prepare` describes the arguments.

        Returns:
            A record: the models that start from published rows, and the tables that were dropped.
        """
        with self._client() as client:
            location = self._create_datasets(client, built)
            self._complete(client, location, log, interrupted=True)
            records = self._records(client)
            states = records.read()
            places = {self._place(model): model for model in built}
            to_execute = {p: m for p, m in places.items() if m.unique_id in executed}
            if resumed_run is not None:
                states = _take_over(states, run, resumed_run, to_execute)
            sources = {
                place: published
                for place, model in to_execute.items()
                if model.keeps_rows
                and not full_refresh
                and (published := _find_table(client, place.published)) is not None
                and published.table_type not in _VIEWS
            }
            for place in to_execute:
                source = sources.get(place)
                states[place] = replace(
                    states.get(place, Record()),
                    build_run=run,
                    based_on=None if source is None else source.modified,
                )
            # Before the tables change, so that a run that is killed now does not leave a build
            # table that the records ascribe to an earlier run.
            records.write(states, location)
            kept = {p for p in places if p not in to_execute and states[p].build_run == run}
            removed = self._remove_leftovers(client, built, kept)
            jobs = TableJobs(client, location, uuid.uuid4().hex)
            wait_for([jobs.clone(place.published, place.build) for place in sources])
        return {"copied": {"clone": [str(place) for place in sources]}, "removed": removed}

    def _remove_leftovers(
        self, client: Client, built: Sequence[PublishedModel], kept: Collection[Place]
    ) -> list[str]:
        """Drop everything in the build datasets but what a resumed run has built."""
        removed = []
        for project, dataset in sorted({(self._project_of(m), m.schema) for m in built}):
            for item in _list_tables(client, project, build_dataset(dataset)):
                if Place(project, dataset, item.table_id) not in kept:
                    client.delete_table(item.reference, not_found_ok=True)
                    removed.append(f"{item.dataset_id}.{item.table_id}")
        return removed

    def switch(self, models: Sequence[PublishedModel], run: str, log: Logger) -> float:
        """Show readers the rows that this run built, one model after the other, parents first.

        Returns:
            For how many seconds readers could see some models in their new version only.

        Raises:
            PublishError: published rows were changed while the run built new ones from them.
        """
        with self._client() as client:
            location = self._get_location(client)
            records = self._records(client)
            states = records.read()
            places = [self._place(model) for model in models]
            # An attempt whose answer was lost may have published or recorded some of them.
            places = [
                place
                for place in places
                if states[place].live_run != run and states[place].switch_run != run
            ]
            edited = [
                str(place)
                for place in places
                if states[place].based_on is not None
                and states[place].based_on != _get_modified(client, place)
            ]
            if edited:
                raise PublishError(
                    f"The tables {', '.join(edited)} were changed while the run built new rows "
                    "from theirs. Nothing was published.",
                    where=self._profile.address,
                    fix="run again: the next run starts from the changed rows",
                )
            self._begin(records, states, places, NEW_VERSION, run, location)
            return self._complete(client, location, log)

    def show_previous(self, log: Logger) -> list[PublishedModel]:
        """Undo the last publication; return its models.

        Models that this publication showed for the first time stay as they are.

        Raises:
            PublishError: no model has an earlier version.
        """
        with self._client() as client:
            location = self._get_location(client)
            self._complete(client, location, log, interrupted=True)
            records = self._records(client)
            states = records.read()
            last = max(
                (r.live_since for r in states.values() if r.live_since is not None), default=None
            )
            models = [
                model
                for model in self.models
                if (record := states.get(self._place(model), Record())).previous_run is not None
                and record.live_since == last
            ]
            if not models:
                raise PublishError(
                    "There is no previous version: nothing was published twice.",
                    where=self._profile.address,
                    fix="correct the model and run the pipeline",
                )
            places = [self._place(model) for model in models]
            self._begin(records, states, places, PREVIOUS_VERSION, None, location)
            self._complete(client, location, log)
        return models

    def _begin(
        self,
        records: Records,
        states: Mapping[Place, Record],
        places: Collection[Place],
        what: str,
        run: str | None,
        location: str,
    ) -> None:
        """Record that a switch begins, before its first job.

        Args:
            records: the records.
            states: what they hold.
            places: the models to switch.
            what: which version to show.
            run: the run whose rows are shown; None for the previous one of each model.
            location: where the datasets are.
        """
        if not places:
            return
        switch_id = f"{what}_{uuid.uuid4().hex}"
        begun = {
            place: replace(
                states[place],
                switch_id=switch_id,
                switch_run=run if run is not None else states[place].previous_run,
            )
            for place in places
        }
        records.write({**states, **begun}, location)

    def _complete(
        self, client: Client, location: str, log: Logger, *, interrupted: bool = False
    ) -> float:
        """Run the jobs of all switches that have begun; return for how many seconds they wrote.

        Args:
            client: BigQuery's client.
            location: where the datasets are.
            log: gets what a killed run left.
            interrupted: whether a killed run has begun them. Tables that are gone by now are left
                out then, because every later run would fail as well.
        """
        records = self._records(client)
        states = records.read()
        seconds = 0.0
        for switch_id in sorted({r.switch_id for r in states.values() if r.switch_id is not None}):
            places = [place for place, r in states.items() if r.switch_id == switch_id]
            if interrupted:
                log.info(
                    "Completing a publication that was interrupted: %s.",
                    ", ".join(map(str, sorted(places))),
                )
            sources = self._find_sources(client, places, switch_id)
            missing = sorted(set(places) - set(sources))
            if missing and not interrupted:
                raise PublishError(
                    f"dbt left no table for {', '.join(map(str, missing))}. Nothing was published.",
                    where=self._profile.address,
                    fix="run again",
                )
            if missing:
                log.warning(
                    "The tables to publish are gone for %s; readers see what they saw before.",
                    ", ".join(map(str, missing)),
                )
            jobs = TableJobs(client, location, switch_id)
            seconds += self._run_jobs(client, jobs, sources, switch_id, log)
            now = datetime.now(UTC)
            for place in places:
                ended = replace(states[place], switch_id=None, switch_run=None)
                if place in sources:
                    ended = replace(
                        ended,
                        live_run=states[place].switch_run,
                        live_since=now,
                        previous_run=states[place].live_run,
                        build_run=None,
                        based_on=None,
                    )
                states[place] = ended
            records.write(states, location)
            for place in sources:
                client.delete_table(place.build, not_found_ok=True)
        return seconds

    def _find_sources(
        self, client: Client, places: Iterable[Place], switch_id: str
    ) -> dict[Place, Table]:
        """Return the tables that a switch shows, without those that do not exist."""
        shows_new = switch_id.startswith(NEW_VERSION)
        found = {p: _find_table(client, p.build if shows_new else p.previous) for p in places}
        return {place: table for place, table in found.items() if table is not None}

    def _run_jobs(
        self,
        client: Client,
        jobs: TableJobs,
        sources: Mapping[Place, Table],
        switch_id: str,
        log: Logger,
    ) -> float:
        """Keep the published version of each model, then show the other one, parents first."""
        shows_new = switch_id.startswith(NEW_VERSION)
        published = {place: _find_table(client, place.published) for place in sources}
        wait_for(
            [
                # The way back keeps the published version where the next run would build.
                jobs.clone(place.published, place.previous if shows_new else place.build)
                for place, table in published.items()
                if table is not None and table.table_type not in _VIEWS
            ]
        )
        started = time.monotonic()
        for level in sorted({self._level(place) for place in sources}):
            shown = [place for place in sources if self._level(place) == level]
            for place in shown:
                if not _is_replaceable(published[place], sources[place]):
                    _drop(client, jobs, published[place], log)
            wait_for([jobs.copy(sources[place], place.published) for place in shown])
        seconds = time.monotonic() - started
        for place, source in sources.items():
            _update_description(client, place, source, published[place])
        if shows_new:
            for place in self._find_granted(sources):
                _copy_access(client, place)
        else:
            wait_for([jobs.clone(place.build, place.previous) for place in sources])
        return seconds

    def _create_datasets(self, client: Client, built: Sequence[PublishedModel]) -> str:
        """Create the datasets that do not exist, where the published ones are; return where."""
        location = str(self._profile.output.get("location") or "")
        for project, schema in sorted({(self._project_of(model), model.schema) for model in built}):
            published = _find_dataset(client, project, schema)
            if published is None:
                published = _create_dataset(client, project, schema, location, None)
            location = str(published.location)
            for name in (build_dataset(schema), previous_dataset(schema)):
                if _find_dataset(client, project, name) is None:
                    _create_dataset(client, project, name, location, published)
        name = own_dataset(self._target_dataset)
        if _find_dataset(client, self._project, name) is None:
            _create_dataset(client, self._project, name, location, None)
        return location

    def _get_location(self, client: Client) -> str:
        name = own_dataset(self._target_dataset)
        dataset = _find_dataset(client, self._project, name)
        # Nothing was published yet: no job will run.
        return "" if dataset is None else str(dataset.location)

    def _records(self, client: Client) -> Records:
        return Records(client, self._project, self._target_dataset)

    def _project_of(self, model: PublishedModel) -> str:
        return model.database or self._project

    def _place(self, model: PublishedModel) -> Place:
        return Place(self._project_of(model), model.schema, model.name)

    def _find_granted(self, places: Iterable[Place]) -> list[Place]:
        """Return the models on which dbt grants access."""
        granted = {self._place(model) for model in self.models if model.has_grants}
        return sorted(granted & set(places))

    def _level(self, place: Place) -> int:
        """Return how many published models are between a model and the first of its ancestors."""
        # A killed run may have begun to publish a model that the project does not have any more.
        levels = {self._place(m): self._levels.get(m.unique_id, 0) for m in self.models}
        return levels.get(place, 0)

    @contextmanager
    def _client(self) -> Iterator[Client]:
        """Yield BigQuery's client.

        Raises:
            PublishError: BigQuery refuses a request; `retryable` if that is transient.
        """
        with self._connect() as client:
            try:
                yield client
            except (GoogleAPIError, GoogleAuthError, requests.RequestException) as error:
                raise PublishError(
                    f"BigQuery refuses to publish: {' '.join(str(error).split())}",
                    where=self._profile.address,
                    fix=get_google_hint(error, self._profile)
                    or "correct what BigQuery says, then run again with --failed",
                    retryable=classify(error) is FailureClass.TRANSIENT,
                ) from error


_VIEWS = frozenset({"VIEW", "MATERIALIZED_VIEW"})


def _all_datasets(schema: str) -> tuple[str, str, str]:
    return schema, build_dataset(schema), previous_dataset(schema)


def _get_levels(
    models: Sequence[PublishedModel], parents: Mapping[str, Sequence[str]]
) -> dict[str, int]:
    """Return id → level of each model; the published ancestors of a model are on lower ones."""
    ids = {model.unique_id for model in models}
    ancestors = {i: (find_ancestors(i, parents) & ids) - {i} for i in ids}
    levels: dict[str, int] = {}
    for unique_id in sorted(ids, key=lambda i: len(ancestors[i])):
        levels[unique_id] = max((levels[i] + 1 for i in ancestors[unique_id]), default=0)
    return levels


def _take_over(
    states: Mapping[Place, Record], run: str, resumed_run: str, executed: Collection[Place]
) -> dict[Place, Record]:
    """Return the records in which what a run built belongs to the run that resumes it."""
    return {
        place: replace(
            record,
            build_run=run if record.build_run == resumed_run else record.build_run,
            # A model that dbt builds again is not the one that was published.
            live_run=run
            if record.live_run == resumed_run and place not in executed
            else record.live_run,
        )
        for place, record in states.items()
    }


def _find_dataset(client: Client, project: str, name: str) -> Dataset | None:
    try:
        return client.get_dataset(DatasetReference(project, name))
    except NotFound:
        return None


def _create_dataset(
    client: Client, project: str, name: str, location: str, like: Dataset | None
) -> Dataset:
    """Create a dataset, with the labels and the encryption of another one but not its readers."""
    dataset = Dataset(DatasetReference(project, name))
    dataset.location = location or None
    if like is not None:
        dataset.labels = like.labels
        if like.default_encryption_configuration is not None:
            dataset.default_encryption_configuration = like.default_encryption_configuration
    return client.create_dataset(dataset, exists_ok=True)


def _list_tables(client: Client, project: str, dataset: str) -> list[Any]:
    try:
        return list(client.list_tables(DatasetReference(project, dataset)))
    except NotFound:
        return []


def _find_table(client: Client, table: TableReference) -> Table | None:
    try:
        return client.get_table(table)
    except NotFound:
        return None


def _get_modified(client: Client, place: Place) -> datetime | None:
    table = _find_table(client, place.published)
    return None if table is None else table.modified


def _drop(client: Client, jobs: TableJobs, published: Table | None, log: Logger) -> None:
    """Drop a view, or a table with other partitions, which no copy job can replace.

    A copy job would put unpartitioned rows into the partition of today. dbt drops such tables too.
    """
    if published is None or jobs.is_copied(published.reference):
        return
    if published.table_type not in _VIEWS:
        log.warning(
            "%s.%s gets other partitions or clusters. BigQuery cannot replace it: it is dropped "
            "and created again, and loses access that was granted on the table itself.",
            published.dataset_id,
            published.table_id,
        )
    client.delete_table(published.reference, not_found_ok=True)


def _is_replaceable(published: Table | None, source: Table) -> bool:
    return published is None or (
        published.table_type not in _VIEWS and _get_layout(published) == _get_layout(source)
    )


def _get_layout(table: Table) -> tuple[Any, ...]:
    """Return the partitions and clusters of a table, as dbt compares them."""
    partitions, ranges = table.time_partitioning, table.range_partitioning
    return (
        None if partitions is None else (partitions.type_, partitions.field),
        None if ranges is None else (ranges.field, str(ranges.range_)),
        list(table.clustering_fields or ()),
    )


def _update_description(
    client: Client, place: Place, source: Table, published: Table | None
) -> None:
    """Set what dbt writes of a model that is no part of its rows: description, labels, expiry.

    What only the published table has stays, except an expiry.
    """
    table = Table(place.published)
    table.description = source.description or (published and published.description)
    table.labels = {**(published.labels if published else {}), **source.labels}
    table.expires = source.expires
    wanted = [name for name in ("description", "labels", "expires") if getattr(table, name)]
    if published is not None and published.expires and not source.expires:
        wanted.append("expires")
    if wanted:
        client.update_table(table, wanted)


def _copy_access(client: Client, place: Place) -> None:
    """Grant on a published table what dbt has granted on its build table, and revoke the rest.

    dbt revokes what the model's config does not grant, too.
    """
    wanted, current = (client.get_iam_policy(table) for table in (place.build, place.published))
    if _get_members(wanted.bindings) != _get_members(current.bindings):
        current.bindings = wanted.bindings
        client.set_iam_policy(place.published, current)


def _get_members(bindings: Iterable[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    return {str(binding["role"]): frozenset(binding["members"]) for binding in bindings}
