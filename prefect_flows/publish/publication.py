"""One run's publication: what it builds out of sight, what may be published, and the result."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.logger import Logger
from prefect_flows.publish.models import (
    PublishedModel,
    blocked_groups,
    find_ancestors,
    find_views_of_published,
    get_published_models,
)
from prefect_flows.publish.publisher import create_publisher
from prefect_flows.publish.readers import describe_readers
from prefect_flows.publish.relocation import relocated
from prefect_flows.state.run_summary import PublishedData
from prefect_flows.transform.results import NodeResult, descendants
from prefect_flows.transform.resume import ResumeState
from prefect_flows.transform.session import DbtSession


class Publication:
    """The publication of one run of a target that publishes.

    Attributes:
        built: the published models that this run builds.
        readers: what readers see.

    Args:
        session: the dbt project and its target.
        run: id of the run.
        selected: resource type → ids of the nodes that the run builds and tests.
        tests_skipped: whether the run leaves the tests out; it publishes nothing then.
        full_refresh: whether incremental models start without their rows.
    """

    def __init__(
        self,
        session: DbtSession,
        run: str,
        selected: Mapping[str, Collection[str]],
        *,
        tests_skipped: bool,
        full_refresh: bool,
        mart_folders: Collection[str],
    ) -> None:
        self._session = session
        self._run = run
        self._tests_skipped = tests_skipped
        self._full_refresh = full_refresh
        self._manifest = session.manifest
        self._models = get_published_models(session.manifest.nodes, mart_folders)
        self.select(selected)
        self._published: set[str] = set()
        self._publisher = create_publisher(session, self._models)
        self._schemas: dict[str, str] | None = None
        self.readers = PublishedData()

    def select(self, selected: Mapping[str, Collection[str]]) -> None:
        """Set which nodes the run builds and tests.

        Args:
            selected: resource type → ids of the nodes.
        """
        ids = {i for kind in ("model", "seed", "snapshot") for i in selected.get(kind, ())}
        self.built = [model for model in self._models if model.unique_id in ids]
        self._tests = [*selected.get("test", ()), *selected.get("unit_test", ())]

    @property
    def unpublished(self) -> set[str]:
        """Ids of the models that this run builds and has not published."""
        return {model.unique_id for model in self.built} - self._published

    def check(self) -> None:
        """Check that the models can be published, before anything is changed.

        Raises:
            ConfigurationError: a view that is not published reads a published model.
            PublishError: names are too long, or privileges are missing.
        """
        views = find_views_of_published(self._manifest.nodes, self._models)
        if views:
            raise ConfigurationError(
                "These views are not published, but read published models: "
                f"{', '.join(f'{view} ({model})' for view, model in views)}. Their readers would "
                "see untested rows.",
                where=str(self._session.project_dir),
                fix="publish each view (config: {meta: {publish: true}}), or make it a table",
            )
        with self._publisher.connected():
            self._publisher.check(self.built)
            self.readers = describe_readers(self._publisher.read_states().values())

    def valid_results(self, done: ResumeState, resumed_run: str) -> ResumeState:
        """Return the results of a resumed run whose rows are still where that run left them.

        Args:
            done: results of the resumed run.
            resumed_run: its id.
        """
        states = self._publisher.read_states()
        lost = {
            model.unique_id
            for model in self.built
            if model.unique_id in done.nodes
            and resumed_run
            not in (states[model.unique_id].build_run, states[model.unique_id].live_run)
        }
        if not lost:
            return done
        lost |= descendants(lost, self._manifest.child_map)
        return replace(
            done,
            nodes={i: result for i, result in done.nodes.items() if i not in lost},
            entries=[entry for entry in done.entries if entry.get("node") not in lost],
        )

    def prepare(
        self, done: Collection[str], resumed_run: str | None, log: Logger
    ) -> dict[str, Any]:
        """Prepare the tables that dbt builds into; return a record.

        Args:
            done: ids of nodes that a resumed run has built.
            resumed_run: id of that run.
            log: gets what takes long.
        """
        executed = {model.unique_id for model in self.built} - set(done)
        with self._publisher.connected():
            record = self._publisher.prepare(
                self.built,
                executed,
                self._run,
                resumed_run,
                full_refresh=self._full_refresh,
                log=log,
            )
            self._schemas = self._get_schemas()
        return record

    @contextmanager
    def building(self) -> Iterator[None]:
        """Let dbt build and test out of sight while the context is open.

        Models that this run does not build are read where their published rows are.
        """
        # A run that builds no published model prepares nothing.
        schemas = self._get_schemas() if self._schemas is None else self._schemas
        with relocated(self._manifest.nodes, schemas, self._session.render_relation):
            yield

    def _get_schemas(self) -> dict[str, str]:
        return self._publisher.get_schemas({model.unique_id for model in self.built}, self._run)

    def sort_groups(
        self, results: Mapping[str, NodeResult]
    ) -> tuple[dict[str, list[PublishedModel]], dict[str, list[str]]]:
        """Return the groups that may be published, and for each other group what blocks it.

        Args:
            results: node id → result, of all nodes that ran.
        """
        blocked = {
            group: [f"{r.resource_type} {r.name}: {r.status}" for r in failed]
            for group, failed in blocked_groups(
                self.built, results.values(), self._manifest.parent_map
            ).items()
        }
        groups: dict[str, list[PublishedModel]] = {}
        for model in self.built:
            groups.setdefault(model.group, []).append(model)
            result = results.get(model.unique_id)
            if result is None or not (result.done or result.failed):
                blocked.setdefault(model.group, []).append(f"{model.name} was not built")
        for group, models in groups.items():
            missing = [t for t in self._tests_of(models) if t not in results]
            if self._tests_skipped:
                blocked.setdefault(group, []).append("the run left out the tests")
            elif missing:
                blocked.setdefault(group, []).append(f"{len(missing)} tests did not run")
        free = {group: models for group, models in groups.items() if group not in blocked}
        return free, {group: reasons for group, reasons in blocked.items() if group in groups}

    def tests_of_built_groups(self, results: Mapping[str, NodeResult]) -> list[str]:
        """Return the tests of the groups whose models are built, without a failure near them.

        Args:
            results: node id → result, of all nodes that ran.
        """
        failed = blocked_groups(self.built, results.values(), self._manifest.parent_map)
        groups: dict[str, list[PublishedModel]] = {}
        for model in self.built:
            groups.setdefault(model.group, []).append(model)
        return list(
            dict.fromkeys(
                test
                for group, models in groups.items()
                if group not in failed
                and all(m.unique_id in results and results[m.unique_id].done for m in models)
                for test in self._tests_of(models)
            )
        )

    def _tests_of(self, models: Iterable[PublishedModel]) -> list[str]:
        """Return the tests of the run that read one of these models, or a node upstream of one."""
        parents = self._manifest.parent_map
        reached: set[str] = set()
        for model in models:
            reached |= find_ancestors(model.unique_id, parents)
        return [test for test in self._tests if not reached.isdisjoint(parents.get(test, ()))]

    def publish(
        self, groups: Mapping[str, Iterable[PublishedModel]], log: Logger
    ) -> dict[str, Any]:
        """Show readers the rows that this run built of all models of these groups.

        Returns:
            A record: names of the models, and for how many seconds readers had to wait at most.

        Raises:
            PublishError: a reader's object would break, or readers hold locks; `retryable` then.
        """
        models = [model for group in groups.values() for model in group]
        with self._publisher.connected():
            seconds = self._publisher.switch(models, self._run, log)
            self._published = {model.unique_id for model in models}
            self.readers = describe_readers(self._publisher.read_states().values())
        return {"models": [str(model) for model in models], "locked_seconds": round(seconds, 3)}
