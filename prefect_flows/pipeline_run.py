"""One run of the pipeline: checks, stages in order, resume, report, notifications, state."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from prefect_flows.core.environment import set_variables
from prefect_flows.core.errors import (
    MillraceError,
    PublishError,
    RunCancelled,
    StageFailed,
    StageTimedOut,
    StateStoreError,
    WarehouseUnreachable,
)
from prefect_flows.core.logger import Logger
from prefect_flows.core.postgres import application_name
from prefect_flows.core.profiles import Profile
from prefect_flows.core.settings import Settings, StagePolicy
from prefect_flows.ingest import source_registry
from prefect_flows.notifications.startup_failure import notify_on_startup_failure
from prefect_flows.publish.models import DEFAULT_GROUP, is_in_folder
from prefect_flows.publish.publication import Publication
from prefect_flows.reporting.run_report.live_display import LiveDisplay
from prefect_flows.run_parameters import (
    check_parameters,
    choose_sources,
    load_failed_parameters,
    pipeline_command,
    refuse_on_production,
    refuse_plaintext_secrets,
)
from prefect_flows.runtime.base import Runtime
from prefect_flows.runtime.parameters import (
    BUILD_RESOURCE_TYPES,
    DBT_STAGES,
    EMPTY_STAGES,
    EVENT_TIME_STAGES,
    FRESHNESS,
    FULL_REFRESH_STAGES,
    RUN_WITH_SNAPSHOTS,
    SAMPLE_STAGES,
    STAGE_RESOURCE_TYPES,
    Parameters,
)
from prefect_flows.runtime.target_lock import target_lock
from prefect_flows.state.runs import (
    Run,
    RunHeader,
    RunStatus,
    find_failed_run,
    find_interrupted_run,
    prune,
)
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_state import DOCS, REPORT, SOURCES, TargetState
from prefect_flows.transform.dbt_stage import DbtStage
from prefect_flows.transform.deadlines import find_complete, read_deadlines, update_deadlines
from prefect_flows.transform.microbatch import find_microbatch_models
from prefect_flows.transform.node_hashes import CodeHashes, find_changed_nodes
from prefect_flows.transform.results import NodeResult, descendants
from prefect_flows.transform.resume import ResumeState, load_resume_state, node_entry, stage_entry
from prefect_flows.transform.reuse.plan import ReusePlan
from prefect_flows.transform.reuse.tracker import NodeTracker
from prefect_flows.transform.session import DbtSession, Selection

if TYPE_CHECKING:
    from prefect_flows.transform.run_report import RunReport

# In the journal: the versions of the sources that the nodes of a run read.
SOURCE_VERSIONS = "source-versions"
REUSE_IS_OFF = "reuse is off"
# The log names at most this many failures that keep models from being published.
MAX_LISTED_REASONS = 3


def run_pipeline(
    parameters: Parameters,
    profile: Profile,
    settings: Settings,
    store: StateStore,
    runtime: Runtime,
) -> dict[str, Any]:
    """Run the stages in order, and return the record of what they did.

    Before the first stage, the run checks everything that can be wrong before it changes anything:
    warehouse, project, selection, names of sources.

    Raises:
        MillraceError: a setting is wrong, a server does not answer, or a stage failed.
    """
    run: _PipelineRun | None = None
    try:
        with runtime.stopping(), ExitStack() as contexts:
            with notify_on_startup_failure(parameters, store, runtime, settings.notify_seconds):
                check_parameters(parameters)
                refuse_on_production(parameters, profile, settings)
                refuse_plaintext_secrets(parameters)
                chosen = choose_sources(parameters, settings)
                contexts.enter_context(target_lock(parameters, store, runtime))
                if parameters.failed:
                    parameters = load_failed_parameters(parameters, store, runtime.log)
                    refuse_plaintext_secrets(parameters)
                    chosen = choose_sources(parameters, settings)
            run = _PipelineRun(parameters, profile, settings, store, runtime, *chosen)
            return run.run()
    except MillraceError as error:
        if run is not None and run.is_stored:
            error.after_changes()
        raise
    finally:
        if runtime.unreported:
            runtime.log.warning(
                "Could not report to Prefect: %s. Results and report are in %s.",
                "; ".join(runtime.unreported),
                f"{store.url}/targets/{parameters.target}",
            )
        if run is not None:
            # After the end of the run is stored, so that the overview page shows it.
            from prefect_flows.reporting.overview.pages import publish

            publish(store, parameters.target, settings, runtime.log)


class _PipelineRun:
    """A run of the pipeline while it is executed.

    Attributes:
        record: what each stage did so far; `run` returns it.
        done: results of the run that this one resumes.
        last_good: node id → hash in the last good run, for `changed`; None if not needed.
        is_stored: whether the state store has the run, so that something has been changed.
        publication: what the run builds out of sight and publishes; None if its target does not.
        tracker: decides which nodes are reused; None before the sources are loaded.
        left_out: sources that are excluded because they were never loaded.
        plan: why nodes run or are reused; None if reuse is off.
        deadlines: ids of the nodes with a deadline → their deadline.
        whole: whether the run covers the whole project.
    """

    def __init__(
        self,
        parameters: Parameters,
        profile: Profile,
        settings: Settings,
        store: StateStore,
        runtime: Runtime,
        chosen: list[str],
        dbt_vars: dict[str, Any],
    ) -> None:
        self.parameters = parameters
        self.profile = profile
        self.settings = settings
        self.runtime = runtime
        self.log = runtime.log
        self.record: dict[str, Any] = {"target": parameters.target}
        self.stages: list[DbtStage] = []
        self.done = ResumeState()
        self.last_good: Mapping[str, str] | None = None
        self.is_stored = False
        self.publication: Publication | None = None
        self.tracker: NodeTracker | None = None
        self.left_out: list[str] = []
        self.plan: ReusePlan | None = None
        self.deadlines: Mapping[str, str] = {}
        self.whole = parameters.is_full_run and not parameters.changed
        self._started = time.monotonic()
        target_path = settings.target_path(parameters.target)
        self.state = TargetState(store, parameters.target, target_path, settings.parsed_dir)
        self.stored = Run(
            store,
            RunHeader(
                id=runtime.run_id,
                target=parameters.target,
                parameters=parameters.identity(),
                url=runtime.url,
                started_at=datetime.now(UTC),
            ),
        )
        self.sources = chosen
        self.session = DbtSession(
            settings.dbt_dir,
            profile,
            target_path,
            dbt_vars,
            runtime.run_id,
            on_warning=lambda text: self.log.warning("dbt: %s", text),
            check_stop=runtime.stop.check,
            batch_tests=settings.batch_tests,
        )
        self.display = LiveDisplay()

    def run(self) -> dict[str, Any]:
        """Run the pipeline, write its report whatever the result, and return the record."""
        ended: RunStatus = "failed"
        failure: str | None = "The run ended before its last stage did; its log says why."
        cause: MillraceError | None = None
        # dbt appends to its log; the state store gets only the log of this run.
        (self.session.log_dir / "dbt.log").unlink(missing_ok=True)
        # What connects to Postgres without a name of its own, such as the loads.
        name = {"PGAPPNAME": application_name(self.stored.header.id)}
        with self.session, self.display, set_variables(name):
            try:
                self._run_stages()
                ended, failure = "passed", None
            except (KeyboardInterrupt, RunCancelled):
                ended, failure = "cancelled", "The run was cancelled."
                raise
            except MillraceError as error:
                if self.is_stored:
                    without = () if self.runtime.url else ("--no-prefect",)
                    error.rerun = pipeline_command(self.parameters.target, "--failed", *without)
                ended = "timed out" if isinstance(error, StageTimedOut) else "failed"
                failure, cause = str(error), error
                raise
            finally:
                self.record["seconds"] = round(time.monotonic() - self._started, 2)
                self._finish(ended, failure, cause)
        self.log.info(
            "Target %s is done in %.1f s.", self.parameters.target, self.record["seconds"]
        )
        return self.record

    def _run_stages(self) -> None:
        """Check what can be wrong, then run each stage and add it to the record."""
        parameters, session = self.parameters, self.session
        arguments = self._resolve_source_arguments()
        # In an image, the build has installed the packages into a read-only folder.
        if session.has_packages() and self.settings.parsed_dir is None:
            deps = self.runtime.run_stage(
                "dbt-deps", self.settings.stages.dbt_deps, lambda _: session.install_packages()
            )
            if not deps["installed"]:
                self.log.info("The installed dbt packages match package-lock.yml.")
        if self.state.restore_partial_parse():
            self.log.info("Copied the partial parse from the image.")
        self._connect(session)
        # Before the selection, because compiling changes nodes.
        self.code = CodeHashes(session.manifest, session.config)
        self.deadlines = read_deadlines(session)
        selection = self._selection()
        selected = session.selected(selection)
        if session.unmatched:
            self.record["unmatched"] = session.unmatched
            self.log.warning(
                "No node of the dbt project matches: %s. The rest of the selection runs.",
                ", ".join(session.unmatched),
            )
        if self.last_good is not None:
            selected = find_changed_nodes(self.last_good, selected, self.code)
        if not selected:
            self.log.info("Nothing changed since the last good run of the target.")
        if self.profile.publishes:
            self.publication = Publication(
                session,
                self.stored.header.id,
                self._without_skipped(selected),
                tests_skipped="test" in parameters.skip,
                full_refresh=parameters.full_refresh,
                mart_folders=self.settings.mart_folders,
            )
            self.publication.check()
            self.record["publish"] = {
                "models": [],
                "blocked": {},
                "prepare_seconds": 0.0,
                "seconds": 0.0,
                "readers": self.publication.readers.model_dump(mode="json"),
            }
        self._begin()
        self.record["ingest"] = {}
        self._ingest(arguments)
        self._check_freshness(selection, selected)
        selected = self._plan_reuse(selected)
        if self.publication is None:
            self._run_dbt_stages(selection, selected)
        else:
            self._run_and_publish(self.publication, selection, selected)
        self._count_marts(selected)
        self._generate_docs()

    def _check_freshness(self, selection: Selection, selected: Mapping[str, list[str]]) -> None:
        try:
            self._run_dbt("freshness", *FRESHNESS, selection, selected)
        except StageFailed:
            if self.publication is not None:
                self._publish(self.publication)  # only records what is not published
            raise

    def _plan_reuse(self, selected: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Return the selected nodes that have to run, and mark them as unfinished."""
        parameters = self.parameters
        rebuild = None
        if parameters.full_refresh:
            rebuild = "full_refresh is set"
        elif parameters.window is not None:
            rebuild = f"the run builds {parameters.window} again"
        elif parameters.is_development:
            rebuild = "the run builds from no rows, or from a sample"
        elif not (parameters.reuse and self.settings.reuse):
            rebuild = REUSE_IS_OFF
        resumed = self.done.records.get(SOURCE_VERSIONS)
        self.tracker = NodeTracker(
            self.session, self.code, self.state, self.stored.header.id, self.log
        )
        stages = DBT_STAGES[parameters.strategy].values()
        types = {kind for _, of_stage in stages for kind in of_stage}
        executed = [
            i for t, ids in self._without_skipped(selected).items() if t in types for i in ids
        ]
        plan = self.tracker.make_plan(
            executed,
            self.record["ingest"],
            {i: newest for stage in self.stages for i, newest in stage.newest_rows().items()},
            None if resumed is None else resumed["versions"],
            self.done.nodes,
            rebuild,
        )
        if resumed is None:
            record = {"versions": dict(self.tracker.source_versions)}
            self.stored.journal.add([stage_entry(SOURCE_VERSIONS, record)])
        if rebuild != REUSE_IS_OFF:
            self.plan = plan
            self.record["reuse"] = plan.summarize().model_dump()
        if plan.reused:
            self.log.info("%s", plan)
        for unique_id, state in plan.reused.items():
            self.log.debug("%s: reused since run %s", unique_id, state.run)
        self.tracker.begin(i for i in plan.reasons if i not in self.done.nodes)
        left = {t: [i for i in ids if i not in plan.reused] for t, ids in selected.items()}
        if self.publication is not None:
            self.publication.select(self._without_skipped(left))
        return left

    def _run_dbt_stages(self, selection: Selection, selected: Mapping[str, list[str]]) -> None:
        for stage, (command, types) in DBT_STAGES[self.parameters.strategy].items():
            self._run_dbt(stage, command, types, selection, selected)

    def _run_and_publish(
        self,
        publication: Publication,
        selection: Selection,
        selected: Mapping[str, list[str]],
    ) -> None:
        """Build and test out of sight, then publish what passed.

        If a node fails, groups of models that have nothing to do with it are published, and the
        failure is raised again.
        """
        if publication.built:
            started = time.monotonic()
            self.record["publish"]["prepared"] = self.runtime.run_stage(
                "publish-prepare",
                self.settings.stages.publish_prepare,
                lambda log: publication.prepare(self.done.nodes, self.stored.header.resumes, log),
            )
            self.record["publish"]["prepare_seconds"] = round(time.monotonic() - started, 2)
        failure: StageFailed | None = None
        with publication.building():
            try:
                self._run_dbt_stages(selection, selected)
            except StageFailed as error:
                failure = error
                if "test" not in self.record and self.parameters.strategy == "run_then_test":
                    self._test_independent_groups(publication, selection)
        try:
            self._publish(publication)
        except PublishError as error:
            self.record["publish"]["readers"]["blocked"].append(error.what)
            if failure is None:
                raise
            self.log.error("%s", error)  # noqa: TRY400 # an expected error, without traceback
        if failure is not None:
            raise failure

    def _test_independent_groups(self, publication: Publication, selection: Selection) -> None:
        """Test the groups that the failure does not block, which the run ended before."""
        tests = publication.tests_of_built_groups(self._results())
        if not tests or "test" in self.parameters.skip:
            return
        command, types = DBT_STAGES["run_then_test"]["test"]
        selected = {"test": tests}
        try:
            self._run_dbt("test", command, types, selection, selected, narrowed=True)
        except StageFailed as error:
            self.log.error("%s", error)  # noqa: TRY400 # the first failure is raised

    def _results(self) -> dict[str, NodeResult]:
        """Return node id → result, of all dbt stages so far."""
        return {i: result for stage in self.stages for i, result in stage.results.items()}

    def _publish(self, publication: Publication) -> None:
        groups, blocked = publication.sort_groups(self._results())
        record = self.record["publish"]
        record["blocked"] = blocked
        record["readers"]["blocked"] = [
            f"{f'group {group}: ' if group != DEFAULT_GROUP else ''}{reason}"
            for group, reasons in blocked.items()
            for reason in reasons
        ]
        for group, reasons in blocked.items():
            self.log.warning(
                "The models of group %s are not published; readers see what they saw before. %s",
                group,
                "; ".join(reasons[:MAX_LISTED_REASONS]),
            )
        if groups:
            started = time.monotonic()
            record |= self.runtime.run_stage(
                "publish",
                self.settings.stages.publish,
                lambda log: publication.publish(groups, log),
            )
            record["seconds"] = round(time.monotonic() - started, 2)
            record["readers"] |= publication.readers.model_dump(mode="json", exclude={"blocked"})
            self.log.info("Published %d models.", len(record["models"]))

    def _without_skipped(self, selected: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Return the selected nodes without the resource types that `skip` excludes."""
        skipped = {t for skip in self.parameters.skip for t in STAGE_RESOURCE_TYPES.get(skip, ())}
        return {kind: nodes for kind, nodes in selected.items() if kind not in skipped}

    def _connect(self, session: DbtSession) -> None:
        """Connect to the warehouse; retry if it answers that it accepts no connections now."""
        seconds = self.settings.unreachable_seconds
        try:
            session.check_connection(seconds, self.log)
        except WarehouseUnreachable as error:
            if not error.retryable:
                raise
            self.log.warning("%s", error)

            def connect(log: Logger) -> dict[str, Any]:
                session.check_connection(seconds, log)
                return {}

            self.runtime.run_stage("connect", self.settings.stages.connect, connect)

    def _resolve_source_arguments(self) -> dict[str, dict[str, Any]]:
        """Return the arguments of each source to ingest, with secrets and defaults.

        Raises:
            ConfigurationError: a source does not exist, or an argument is missing or wrong.
        """
        given = self.parameters.source_arguments
        for name in (*self.sources, *given):
            source_registry.require_source(name)
        if not self.sources or "ingest" in self.parameters.skip:
            return {}
        # This imports dlt and Arrow, which takes half a second and 75 MB.
        from prefect_flows.ingest.arguments import build_source_arguments

        return {
            name: build_source_arguments(
                name,
                self.parameters.target,
                given.get(name, {}),
                self.runtime.secret,
                self.parameters.window,
            )
            for name in self.sources
        }

    def _selection(self) -> Selection:
        parameters = self.parameters
        folder = None
        if parameters.changed:
            folder = self.state.last_good(self.log.warning)
            self.last_good = self.state.last_good_hashes(self.log.warning)
            if folder is None or self.last_good is None:
                folder = self.last_good = None
                self.log.info("No run of the target was good yet: everything counts as changed.")
        self.left_out = self._find_left_out_sources()
        exclude = [*parameters.exclude, *(f"source:{name}+" for name in self.left_out)]
        return Selection(parameters.select, exclude, deferred_to=folder)

    def _find_left_out_sources(self) -> list[str]:
        """Warn of sources that were never loaded; return them if the run ingests only some."""
        off = source_registry.disabled_sources(self.settings.dbt_project_file, self.parameters.vars)
        ingested = [] if "ingest" in self.parameters.skip else self.sources
        others = set(source_registry.source_names()) - {*off, *ingested}
        missing = self.session.find_unloaded_sources(others)
        leaves_out = self.parameters.sources is not None and bool(ingested)
        for name in missing:
            self.log.warning(
                "Source %s was never loaded into target %s%s. To load it: %s",
                name,
                self.parameters.target,
                "; nodes downstream of it are excluded from this run" if leaves_out else "",
                source_registry.flow_command(name, self.parameters.target),
            )
        return missing if leaves_out else []

    def _begin(self) -> None:
        """Store the header of the run, with the results of an interrupted run that it resumes."""
        parameters = self.parameters
        resumes = None
        within = timedelta(hours=self.settings.resume_within_hours)
        if parameters.failed:
            resumes = find_failed_run(self.stored.store, parameters.target, self.log.warning)
        elif parameters.resume:
            resumes = find_interrupted_run(
                self.stored.store,
                parameters.target,
                parameters.identity(),
                within,
                self.log.warning,
            )
        if resumes is not None:
            self.done = load_resume_state(resumes.entries, self.code, self.log.warning)
            if self.publication is not None:
                self.done = self.publication.valid_results(self.done, resumes.header.id)
            self.record["resumes"] = resumes.header.id
            if resumes.header.begun_at < datetime.now(UTC) - within:
                self.whole = False  # results of that run are out of date
            self.log.info(
                "Resuming run %s, which %s: %d nodes done, %d changed "
                "and run again. %s starts over.",
                resumes.header.url or resumes.header.id,
                "failed" if resumes.header.ended == "failed" else "was interrupted",
                len(self.done.nodes),
                len(self.done.changed),
                "A run without --failed" if parameters.failed else "--no-resume",
            )
        self.stored.begin(resumes, self.done.entries)
        self.is_stored = True

    def _ingest(self, arguments: Mapping[str, Mapping[str, Any]]) -> None:
        """Ingest the sources that a resumed run has not ingested."""
        records = self.record["ingest"]
        for name in arguments:
            if (before := self.done.records.get(f"ingest-{name}")) is not None:
                records[name] = dict(before)
        remaining = {name: given for name, given in arguments.items() if name not in records}
        if not remaining:
            return
        if self.parameters.window is not None:
            for name, given in remaining.items():
                self.log.info(
                    "Source %s %s.",
                    name,
                    f"loads {self.parameters.window} again"
                    if source_registry.WINDOW in given
                    else "cannot load single days, and is loaded as always",
                )
        from prefect_flows.ingest.run_sources import ingest_sources

        def save_record(name: str, record: dict[str, Any]) -> None:
            records[name] = record
            self.stored.journal.add([stage_entry(f"ingest-{name}", record)])

        ingest_sources(
            self.profile, remaining, self.runtime.run_stage, self.settings, save_record, self.log
        )

    def _run_dbt(
        self,
        stage: str,
        command: list[str],
        types: tuple[str, ...],
        selection: Selection,
        selected: Mapping[str, list[str]],
        *,
        narrowed: bool = False,
    ) -> None:
        parameters = self.parameters
        left_out = {t for skip in parameters.skip for t in STAGE_RESOURCE_TYPES.get(skip, ())}
        selected = self._without_skipped(selected)
        nodes = [node for kind in types for node in selected.get(kind, [])]
        after_models = self._snapshots_after_models(selected)
        if stage == "freshness" and stage not in parameters.skip:
            nodes = self._exclude_missing_tables(nodes, selected)
        elif stage == "snapshot":
            nodes = [node for node in nodes if node not in after_models]
        elif stage == "run" and after_models:
            command, nodes = RUN_WITH_SNAPSHOTS, [*nodes, *after_models]
        if stage in parameters.skip or not nodes:
            requested = stage in parameters.skip or left_out.issuperset(types)
            self.record[stage] = {"skipped": "as asked" if requested else self._why_empty(types)}
            return
        name = f"dbt-{stage}"
        flags = self._flags(stage)
        if stage == "build":
            flags += [f for t in sorted(left_out) for f in ("--exclude-resource-type", t)]
        if selection.deferred_to is not None and stage != "freshness":
            flags += ["--defer"]
        policy: StagePolicy = getattr(self.settings.stages, f"dbt_{stage}")
        dbt = DbtStage(
            self.session,
            name,
            command,
            selection.arguments(),
            nodes,
            self._retries(stage),
            flags,
            self.done.nodes,
            self._save_results,
            [*self.runtime.listeners, self.display],
            narrowed=narrowed
            or self.last_good is not None
            or bool(self.plan and self.plan.reused)
            or bool(after_models)
            or stage == "freshness",
            reasons=self.plan.reasons if self.plan else None,
            verbose=parameters.verbose or self.settings.verbose,
        )
        self.stages.append(dbt)
        before = self.done.records.get(name)
        if before is not None and len(dbt.results) == len(nodes):
            self.record[stage] = dict(before) | {"resumed": len(nodes)}
            return
        try:
            self.record[stage] = self.runtime.run_stage(name, policy, dbt.attempt)
        except StageFailed as error:
            self.record[stage] = error.record
            self._examine(dbt)
            raise
        finally:
            if stage == "freshness" and dbt.returned is not None:
                dbt.returned.write(str(self.session.target_path / SOURCES))
                self.state.save(SOURCES)
        self._examine(dbt)
        self.stored.journal.add([stage_entry(name, self.record[stage])])

    def _flags(self, stage: str) -> list[str]:
        """Return dbt's flags for the parameters of the run."""
        parameters, flags = self.parameters, []
        if parameters.full_refresh and stage in FULL_REFRESH_STAGES:
            flags.append("--full-refresh")
        if parameters.window is not None and stage in EVENT_TIME_STAGES:
            flags += ["--event-time-start", str(parameters.window.first)]
            flags += ["--event-time-end", str(parameters.window.end)]
        if parameters.empty and stage in EMPTY_STAGES:
            flags.append("--empty")
        if parameters.sample is not None and stage in SAMPLE_STAGES:
            flags.append(f"--sample={parameters.sample}")
        return flags

    def _examine(self, stage: DbtStage) -> None:
        if self.tracker is not None:
            self.tracker.examine(stage.results)

    def _why_empty(self, types: Collection[str]) -> str:
        nodes = self.session.node
        reused = self.plan.reused if self.plan else ()
        is_reused = any(str(nodes(i).resource_type) in types for i in reused)
        return "nothing changed" if is_reused else "nothing selected"

    def _snapshots_after_models(self, selected: Mapping[str, list[str]]) -> list[str]:
        """Return the ids of snapshots downstream of models: `dbt-run` builds these in graph order.

        If they ran in `dbt-snapshot` before the models, the first run would fail because the table
        is missing, and later runs would snapshot the model's rows of the previous run.
        """
        if self.parameters.strategy == "build":
            return []
        downstream = descendants(selected.get("model", []), self.session.manifest.child_map)
        return [node for node in selected.get("snapshot", []) if node in downstream]

    def _exclude_missing_tables(
        self, nodes: list[str], selected: Mapping[str, list[str]]
    ) -> list[str]:
        """Return the sources without those whose missing tables this run builds."""
        built = [i for kind in ("seed", "snapshot", "model") for i in selected.get(kind, [])]
        missing = self.session.find_missing_source_tables(nodes, built)
        for source, node in missing.items():
            self.log.info(
                "The freshness of %s is not checked: its table is missing, and %s makes it in "
                "this run.",
                source,
                node,
            )
        return [node for node in nodes if node not in missing]

    def _retries(self, stage: str) -> dict[str, int]:
        """Return resource type → retries; in `build`, each type has those of its own stage."""
        policies = self.settings.stages
        if stage != "build":
            retries = getattr(policies, f"dbt_{stage}").retries
            snapshots = {"snapshot": policies.dbt_snapshot.retries} if stage == "run" else {}
            return (
                dict.fromkeys(("source", *BUILD_RESOURCE_TYPES, "operation"), retries) | snapshots
            )
        return {
            "seed": policies.dbt_seed.retries,
            "snapshot": policies.dbt_snapshot.retries,
            "test": policies.dbt_test.retries,
            "unit_test": policies.dbt_test.retries,
        } | dict.fromkeys(("model", "function", "operation"), policies.dbt_run.retries)

    def _save_results(self, results: Sequence[NodeResult]) -> None:
        self.stored.journal.add([node_entry(result, self.code) for result in results])

    def _count_marts(self, selected: Mapping[str, list[str]]) -> None:
        if "run" in self.parameters.skip:
            return
        nodes = self.session.manifest.nodes
        folders = self.settings.mart_folders
        marts = [i for i in selected.get("model", []) if is_in_folder(nodes[i].fqn, folders)]
        if not marts:
            self.record["marts"] = {}
            return

        def count(log: Logger) -> dict[str, Any]:
            counts, unreadable = self.session.row_counts(marts)
            for name, error in unreadable.items():
                log.warning("The rows of %s are not counted, it cannot be read: %s", name, error)
            return counts

        try:
            self.record["marts"] = self.runtime.run_stage(
                "count-marts", self.settings.stages.count_marts, count
            )
        except (WarehouseUnreachable, StageTimedOut) as error:
            # The counts are only for the report: do not fail the run.
            self.log.warning("The rows of the marts are not counted. %s", error)

    def _generate_docs(self) -> None:
        """Generate dbt's documentation if something was built."""
        built = any(
            "nodes" in self.record.get(stage, {}) for stage in ("seed", "snapshot", "run", "build")
        )
        if "docs" in self.parameters.skip or not built:
            return
        started = time.monotonic()

        def work(log: Logger) -> dict[str, Any]:
            relations = self.session.generate_docs()
            log.info("dbt-docs: documented the columns of %d relations.", relations)
            return {"relations": relations}

        self.record["docs"] = self.runtime.run_stage(
            "dbt-docs", self.settings.stages.dbt_docs, work
        ) | {"seconds": round(time.monotonic() - started, 2)}
        self.state.save("catalog.json")
        self.state.save("static_index.html", DOCS)

    def _finish(self, ended: RunStatus, failure: str | None, cause: MillraceError | None) -> None:
        """Store the result and notify; an error of the state store never hides the run's own."""
        from prefect_flows.notifications.run_result import RunOutcome, notify_run_result

        header, report = self.stored.header, None
        try:
            report = self._store_result(ended, failure)
            if cause is not None and report is not None:
                from prefect_flows.reporting.run_report.terminal import failure_text

                place = f"{self.stored.store.url}/{self.state.folder}/{REPORT}"
                cause.details = failure_text(self.record, report, place)
        except StateStoreError as error:
            if ended == "passed":
                cause = error
                raise
            self.log.error("%s", error)  # noqa: TRY400 # an expected error, without traceback
        finally:
            outcome: RunStatus = "failed" if ended == "passed" and report is None else ended
            # A test that passes without rows resolves no incident.
            if not self.parameters.is_development:
                notify_run_result(
                    RunOutcome(
                        header.target, header.started_at, outcome, cause, self.record, report
                    ),
                    self.stored.store,
                    self.runtime,
                    self.settings.notify_seconds,
                )

    def _save_node_states(self) -> None:
        """Save what the next run reuses, and which nodes with a deadline are complete.

        After a run for development, the nodes stay unfinished: the next run builds them.
        """
        if self.tracker is None:
            return
        unpublished = set() if self.publication is None else self.publication.unpublished
        manifest, results = self.session.manifest, self._results()
        if self.parameters.window is None:
            self.tracker.finish(results, unpublished)
        else:
            self.tracker.finish(results, unpublished | find_microbatch_models(manifest))
            return
        complete = find_complete(
            self.deadlines, manifest, results, self.tracker.plan.reused, unpublished
        )
        update_deadlines(
            self.stored.store,
            self.parameters.target,
            manifest,
            self.deadlines,
            complete,
            self.log.warning,
        )

    def _store_result(self, ended: RunStatus, failure: str | None) -> RunReport | None:
        """Write the report, the summary and the state for the next run; return the report."""
        try:
            if self.session.is_parsed:
                if "docs" not in self.record:
                    self.session.write_manifest()
                if ended == "passed" and self.parameters.is_full_run and not self.left_out:
                    self.state.save_last_good(self.code.all(), self.code.variables)
                if ended in ("passed", "failed") and not self.parameters.is_development:
                    self._save_node_states()
            # Imported here, so that the import does not delay the first model.
            from prefect_flows.reporting.run_report.stage_reports import RunReporter

            reporter = RunReporter(
                self.session, self.stored, self.state, self.runtime, self.settings
            )
            report = reporter.report(self.record, self.stages, ended, failure, self.plan)
        finally:
            # Record the end of the run even if the report fails; otherwise it counts as killed.
            if self.is_stored:
                self.stored.end(ended)
        prune(
            self.stored.store,
            self.parameters.target,
            keep=self.settings.keep_runs,
            keep_days=self.settings.keep_days,
        )
        from prefect_flows.reporting.overview.pages import save_run

        save_run(
            self.stored,
            report,
            ended,
            failure,
            seconds=self.record["seconds"],
            whole=self.whole and not self.left_out,
            settings=self.settings,
            log=self.log,
        )
        if report is not None:
            from prefect_flows.reporting.open_lineage.send import save_events

            save_events(self.stored, report, self.profile, self.settings, self.log)
        return report
