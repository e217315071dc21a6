"""Build the models that a pull request changes, and those downstream, in its CI schema."""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infrastructure.ci.pull_request.build_record import MANIFEST, PRODUCTION, Build, ChangedNode
from infrastructure.ci.pull_request.changes import (
    MATERIALIZED,
    Changes,
    collect_contract_breaks,
    find_changes,
    require_ci_schema,
)
from infrastructure.ci.pull_request.context import Context
from infrastructure.ci.pull_request.failures import build_failures
from infrastructure.ci.pull_request.names import (
    ONE_SCHEMA,
    SchemaOwner,
    get_folder,
    get_schema,
    other_repository_error,
)
from infrastructure.ci.pull_request.warehouse import Limits
from infrastructure.ci.pull_request.warehouse_choice import get_warehouse
from prefect_flows.core.code_version import get_version
from prefect_flows.core.errors import CorruptFileError, RunCancelled, StageFailed, after_changes
from prefect_flows.core.profiles import Profile
from prefect_flows.core.settings import StagePolicy
from prefect_flows.reporting.run_report.history import get_medians
from prefect_flows.runtime.base import LocalRuntime, Runtime
from prefect_flows.runtime.parameters import BUILD_RESOURCE_TYPES as BUILDABLE
from prefect_flows.state.target_state import (
    RUN_RESULTS,
    RUN_RESULTS_KIND,
    RunResultsShape,
    TargetState,
)
from prefect_flows.transform.dbt_stage import DbtStage
from prefect_flows.transform.lineage import TESTS
from prefect_flows.transform.results import SKIPPED, NodeResult, count_by_status, display_name
from prefect_flows.transform.session import DbtSession, Selection

log = logging.getLogger("millrace")

# Nodes that are not built are read from production (`--defer --favor-state`). `dbt test` selects
# no models, so `--favor-state` would make it read even the built ones from production. The schema
# was emptied before, so a relation in it is always from this build.
DEFERRING = ("--defer", "--favor-state")
DEFERRING_TESTS = ("--defer",)
NO_LIMITS = Limits(seconds=600, bytes=0)


@dataclass(frozen=True)
class BuildRequest:
    """What to build.

    Attributes:
        number: number of the pull request.
        production: target to compare with.
        repository: owner/name, if known.
        vars: dbt variables, with the values that production uses.
        wait: seconds to wait for another build of the same pull request.
        rows: whether to fetch rows of failed tests.
    """

    number: int
    production: str
    repository: str | None
    vars: Mapping[str, Any] = field(default_factory=dict)
    wait: float = 1800
    with_rows: bool = True


def build(request: BuildRequest, context: Context) -> Build:
    """Build and test a pull request, and write the build record to its folder.

    Raises:
        MillraceError: nothing was built. Nodes that fail are in the record instead.
    """
    started, started_at = time.monotonic(), datetime.now(UTC)
    build_id = uuid.uuid4().hex
    profile = context.get_ci_profile(request.number)
    folder = get_folder(context.settings, request.number)
    owner = SchemaOwner(
        number=request.number, repository=request.repository, build=build_id, built_at=started_at
    )
    version = get_version(context.settings)
    manifest = context.read_manifest(request.production)
    runtime = LocalRuntime()
    with (
        _cancelled_by_signals(request.number, runtime),
        closing(get_warehouse(profile, NO_LIMITS)) as warehouse,
        warehouse.lock(get_schema(request.number), owner, request.wait),
    ):
        before = warehouse.get_owner(get_schema(request.number))
        if before is not None and before.belongs_to_another(request.repository):
            raise other_repository_error(before, str(request.repository), profile.address)
        state = _reset_folder(folder, manifest)
        building = _BuildInProgress(
            request, context, profile, folder, state, json.loads(manifest), runtime
        )
        with building.session:
            changes = building.changes()
            if building.has_relations(changes):
                warehouse.reset(get_schema(request.number), owner)
            else:
                warehouse.drop(get_schema(request.number))
            record = Build(
                id=build_id,
                number=request.number,
                target=profile.target,
                production=request.production,
                warehouse=profile.warehouse,
                schema_name=get_schema(request.number),
                version=version,
                repository=request.repository,
                started_at=started_at,
                seconds=0,
                outcome="refused" if changes.refusal else "nothing",
                contract_breaks=dict(changes.contract_breaks),
                refusal=changes.refusal,
            )
            if changes.refusal is None:
                with after_changes():
                    record = building.run(record, changes)
    record = record.model_copy(update={"seconds": round(time.monotonic() - started, 1)})
    record.write(folder)
    return record


@contextmanager
def _cancelled_by_signals(number: int, runtime: Runtime) -> Iterator[None]:
    """Stop the build on Ctrl-C and SIGTERM.

    Raises:
        RunCancelled: a signal arrived.
    """
    try:
        with runtime.stopping():
            yield
    except RunCancelled as error:
        raise RunCancelled(
            error.what,
            where=f"the build of pull request {number}; {get_schema(number)} may hold a part of it",
            fix="build it again, which starts over",
        ) from error


def _reset_folder(folder: Path, manifest: bytes) -> Path:
    """Delete the files of an earlier build, except dbt's parse cache, and write the manifest."""
    state = folder / PRODUCTION
    for old in folder.glob("*.json"):
        old.unlink()
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    (state / MANIFEST).write_bytes(manifest)
    return state


class _BuildInProgress:
    """A build in progress."""

    def __init__(
        self,
        request: BuildRequest,
        context: Context,
        profile: Profile,
        folder: Path,
        state: Path,
        production: Mapping[str, Any],
        runtime: Runtime,
    ) -> None:
        self._request = request
        self._context = context
        self._folder = folder
        self._state = state
        self._production = production
        self._runtime = runtime
        self.session = DbtSession(
            context.settings.dbt_dir,
            profile,
            folder / "target",
            dict(request.vars) | {ONE_SCHEMA: True},
            f"pull-request-{request.number}",
            check_stop=runtime.stop.check,
        )

    def changes(self) -> Changes:
        """Compare the project with production, and check that dbt writes only to the CI schema."""
        session = self.session
        if session.has_packages() and self._context.settings.parsed_dir is None:
            session.install_packages()
        session.check_connection(self._context.settings.unreachable_seconds, log)
        changes = find_changes(
            session,
            self._state,
            self._production,
            self._context.get_target_state(self._request.production).last_good_variables(),
        )
        require_ci_schema(session, changes)
        kinds = count_by_change(changes)
        log.info("Against %s: %s.", self._request.production, kinds or "no model differs")
        return changes

    def has_relations(self, changes: Changes) -> bool:
        """Return whether the build creates a relation."""
        nodes = self.session.manifest.nodes
        return any(i in nodes and not nodes[i].is_ephemeral_model for i in changes.kinds)

    def run(self, record: Build, changes: Changes) -> Build:
        """Run dbt and return the record with its results."""
        selection = Selection(deferred_to=self._state)
        selected = {
            kind: [unique_id for unique_id in unique_ids if unique_id in changes.selected]
            for kind, unique_ids in self.session.selected(selection).items()
        }
        with collect_contract_breaks({}):  # `changes` recorded them
            results = self._run(selection, selected)
        self.session.write_manifest()
        shutil.copyfile(self.session.target_path / MANIFEST, self._folder / MANIFEST)
        tests = [r for r in results.values() if r.resource_type in TESTS]
        all_of_them = list(results.values())
        failed = any(result.failed for result in all_of_them)
        failures = build_failures(
            self.session, record, all_of_them, self._production, rows=self._request.with_rows
        )
        return record.model_copy(
            update={
                "outcome": "failed" if failed else "passed" if results else "nothing",
                "nodes": list(self._build_nodes(changes, results)),
                "tests": count_by_status(tests),
                "failures": list(failures) if failed else [],
            }
        )

    def _run(
        self, selection: Selection, selected: Mapping[str, Sequence[str]]
    ) -> dict[str, NodeResult]:
        """Run all models, then all tests, so that a failed test does not skip downstream models."""
        policies = self._context.settings.stages
        models = [i for kind in BUILDABLE if kind not in TESTS for i in selected.get(kind, [])]
        without_tests = [f for kind in sorted(TESTS) for f in ("--exclude-resource-type", kind)]
        flags = [*DEFERRING, *without_tests]
        results = self._stage("build", policies.dbt_build, selection, models, flags, {})
        tests = [i for kind in sorted(TESTS) for i in selected.get(kind, [])]
        unbuilt = {i for i, result in results.items() if not result.done}
        skipped = {
            i: self._skipped_result(i) for i in tests if unbuilt.intersection(self._parents(i))
        }
        return results | self._stage(
            "test", policies.dbt_test, selection, tests, DEFERRING_TESTS, skipped
        )

    def _stage(
        self,
        command: str,
        policy: StagePolicy,
        selection: Selection,
        nodes: Sequence[str],
        flags: Sequence[str],
        done: Mapping[str, NodeResult],
    ) -> dict[str, NodeResult]:
        """Run one dbt command; failed nodes are in the results."""
        if not nodes or len(done) == len(nodes):
            return dict(done)
        retries = dict.fromkeys((*BUILDABLE, "operation"), policy.retries)
        stage = DbtStage(
            self.session, f"dbt-{command}", [command], selection.arguments(), nodes, retries,
            flags, done, lambda _: None, (), narrowed=True,
        )  # fmt: skip
        try:
            self._runtime.run_stage(f"dbt-{command}", policy, stage.attempt)
        except StageFailed as error:
            if not any(result.failed for result in stage.results.values()):
                raise
            log.info("%s", error.what)
        return stage.results

    def _parents(self, unique_id: str) -> list[str]:
        return list(self.session.manifest.parent_map.get(unique_id, []))

    def _skipped_result(self, unique_id: str) -> NodeResult:
        """Return a skipped result for a test whose model was not built."""
        node = self.session.node(unique_id)
        kind, path = str(node.resource_type), node.original_file_path
        name, fqn = display_name(node), (*node.fqn,)
        return NodeResult(unique_id, name, kind, path, fqn, SKIPPED, None, 0.0, None)

    def _build_nodes(
        self, changes: Changes, results: Mapping[str, NodeResult]
    ) -> Iterator[ChangedNode]:
        state = self._context.get_target_state(self._request.production)
        usual, read = self._production_metrics(state)
        for unique_id, change in changes.kinds.items():
            result = results.get(unique_id)
            seconds, _ = usual.get(unique_id, (None, 0))
            yield ChangedNode(
                unique_id=unique_id,
                change=change,
                parts=changes.parts.get(unique_id, []),
                status=None if result is None else result.status,
                seconds=0.0 if result is None else result.seconds,
                usual_seconds=None if seconds is None else round(seconds, 3),
                bytes=None if result is None else result.bytes,
                usual_bytes=read.get(unique_id),
                slot_seconds=None if result is None else result.slot_seconds,
            )

    def _production_metrics(
        self, state: TargetState
    ) -> tuple[Mapping[str, tuple[float, int]], dict[str, int]]:
        """Return median seconds and scanned bytes per node in production."""
        try:
            run_results = state.store.load(f"{state.folder}/{RUN_RESULTS}", RUN_RESULTS_KIND)
            return get_medians(state.timings()), _bytes_by_node(run_results)
        except CorruptFileError as error:
            # The file belongs to production, whose next run moves it aside.
            log.warning("The usual times of models are not known. %s", error)
            return {}, {}


def count_by_change(changes: Changes) -> str:
    """Format the number of models, seeds and snapshots per kind of change."""
    kinds = list(changes.kinds.values())
    return ", ".join(
        f"{kinds.count(kind)} {kind}"
        for kind in ("modified", "new", "downstream", "removed")
        if kind in kinds
    )


def _bytes_by_node(run_results: RunResultsShape | None) -> dict[str, int]:
    """Return the bytes that each node scanned in a run, if the warehouse reports them."""
    found = {}
    for result in run_results.results if run_results else []:
        read = (result.adapter_response or {}).get("bytes_processed")
        if isinstance(read, (int, float)) and result.unique_id.partition(".")[0] in MATERIALIZED:
            found[result.unique_id] = int(read)
    return found
