"""Records what each node of a target was built from, and plans a run with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from prefect_flows.core.errors import WarehouseUnreachable
from prefect_flows.core.logger import Logger
from prefect_flows.state.node_states import NodeState, load_node_states, save_node_states
from prefect_flows.state.target_state import TargetState
from prefect_flows.transform.node_hashes import CodeHashes
from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.reuse.plan import (
    PASSED,
    WITH_RELATION,
    Inputs,
    ReusePlan,
    SourceVersions,
    get_version,
    plan_reuse,
)
from prefect_flows.transform.reuse.relations import read_relation_states
from prefect_flows.transform.reuse.volatility import find_in_code
from prefect_flows.transform.session import DbtSession

# Packages of macros that dbt itself brings. They name the clock, for example to make a snapshot.
_DBT_PACKAGES = frozenset({"dbt", "dbt_postgres", "dbt_bigquery"})
# Of nodes that failed, and of those whose result a resumed run keeps: they were not compiled.
NOT_EXAMINED = "its SQL was not examined"


class NodeTracker:
    """The states of a target's nodes during one run.

    A node that the run executes is marked as unfinished before, so that a run that is killed leaves
    no state that is out of date.

    Args:
        session: the dbt project and its target.
        code: hashes of the nodes.
        state: the target's folder in the state store.
        run: id of the run.
        log: the log of the run.

    Attributes:
        plan: what the run executes and reuses.
    """

    def __init__(
        self, session: DbtSession, code: CodeHashes, state: TargetState, run: str, log: Logger
    ) -> None:
        self.plan = ReusePlan()
        self._session = session
        self._code = code
        self._state = state
        self._run = run
        self._log = log
        self._states = load_node_states(state, log.warning)
        self._inputs = Inputs(session.manifest)
        self._sources = SourceVersions()
        # Node id → why it has to run every time; None if nothing says so.
        self._always: dict[str, str | None] = {}

    def make_plan(
        self,
        selected: Collection[str],
        loads: Mapping[str, Mapping[str, Any]],
        freshness: Mapping[str, str],
        resumed_versions: Mapping[str, str | None] | None,
        done: Collection[str],
        rebuild: str | None,
    ) -> ReusePlan:
        """Decide which of the selected nodes the run executes.

        Args:
            selected: ids of the selected nodes, without sources.
            loads: source → record of its load in this run.
            freshness: source id → time of its newest row, for sources whose freshness was checked.
            resumed_versions: the source versions of the run that this one resumes; None if it
                resumes none.
            done: ids of the nodes that the resumed run has executed.
            rebuild: why everything is executed; None if nodes may be reused.

        Raises:
            WarehouseUnreachable: the warehouse does not answer.
        """
        manifest = self._session.manifest
        inputs = dict.fromkeys(each for i in selected for each in self._inputs.get(i))
        read = [i for i in inputs if i in manifest.sources]
        known = [] if rebuild else [i for i in (*selected, *inputs) if i in self._states]
        relations = self._read_relations([*read, *known])
        sources = SourceVersions(
            {i: relations[i] or freshness.get(i) for i in read},
            {i for i in read if _has_new_rows(manifest.sources[i], loads)},
        )
        self.plan = plan_reuse(
            selected,
            manifest,
            self._code,
            self._states,
            relations,
            sources,
            done,
            self._inputs,
            rebuild=rebuild,
        )
        # The nodes of a resumed run have read what that run found.
        versions = sources.versions if resumed_versions is None else resumed_versions
        self._sources = SourceVersions(versions, sources.loaded)
        return self.plan

    @property
    def source_versions(self) -> Mapping[str, str | None]:
        """Source id → version of its rows, for a run that resumes this one."""
        return self._sources.versions

    def begin(self, unique_ids: Iterable[str]) -> None:
        """Mark the nodes that the run is about to execute as unfinished.

        Raises:
            StateStoreError: the store cannot be written.
        """
        begun = {i: NodeState(status=None, run=self._run) for i in unique_ids}
        if begun:
            # In memory, the states of before stay: `finish` reuses what they know about the code.
            save_node_states(self._state, self._states | begun)

    def examine(self, results: Mapping[str, NodeResult]) -> None:
        """Find out which of the executed nodes have to run every time, from their compiled SQL.

        Call this while the nodes have the names that they were compiled with.

        Args:
            results: node id → result.
        """
        for unique_id, result in results.items():
            if unique_id in self.plan.reasons and result.status in PASSED and not result.resumed:
                before = self._states.get(unique_id)
                known = before is not None and before.code == self._code.get(unique_id)
                self._always[unique_id] = (
                    before.always
                    if before is not None and known and before.always != NOT_EXAMINED
                    else self._find_always(unique_id)
                )

    def finish(self, results: Mapping[str, NodeResult], incomplete: Collection[str]) -> None:
        """Save the states of the nodes that the run has executed.

        Args:
            results: node id → result.
            incomplete: ids of the models that were built but not published, or only for some days.
                They have no state, so that the next run builds and publishes them.

        Raises:
            StateStoreError: the store cannot be written.
        """
        executed = {
            i: result
            for i, result in results.items()
            if i in self.plan.reasons and i not in incomplete
        }
        before = self._states
        kept = {
            i
            for i, result in executed.items()
            if result.resumed and get_version(before.get(i)) is not None
        }
        after = {i: s for i, s in before.items() if i not in self.plan.reasons or i in kept}
        try:
            relations = self._read_relations(executed.keys() - kept)
        except WarehouseUnreachable as error:
            self._log.warning(
                "What was built is not recorded; the next run builds it again. %s", error
            )
            relations = None
        if relations is not None:
            for unique_id in executed.keys() - kept:
                after[unique_id] = NodeState(status=executed[unique_id].status, run=self._run)
            for unique_id in executed.keys() - kept:
                after[unique_id] = self._build_state(
                    unique_id, executed[unique_id], after, relations
                )
        # Nodes that are not in the project any more have no state.
        after = {i: state for i, state in after.items() if self._is_known(i)}
        if after != before:
            save_node_states(self._state, after)

    def _build_state(
        self,
        unique_id: str,
        result: NodeResult,
        states: Mapping[str, NodeState],
        relations: Mapping[str, str | None],
    ) -> NodeState:
        versions = self._sources.versions
        return NodeState(
            status=result.status,
            run=self._run,
            ended_at=result.completed_at,
            code=self._code.get(unique_id),
            own_code=self._code.get_own(unique_id),
            inputs={
                i: versions.get(i) if i.startswith("source.") else get_version(states.get(i))
                for i in self._inputs.get(unique_id)
            },
            relation=relations.get(unique_id),
            always=self._always.get(unique_id, NOT_EXAMINED),
            seconds=result.seconds,
            bytes=result.bytes,
        )

    def _is_known(self, unique_id: str) -> bool:
        try:
            self._session.node(unique_id)
        except KeyError:
            return False
        return True

    def _read_relations(self, unique_ids: Iterable[str]) -> dict[str, str | None]:
        kinds = WITH_RELATION | {"source"}
        node = self._session.node
        return read_relation_states(
            self._session,
            [i for i in unique_ids if str(node(i).resource_type) in kinds],
            self._run,
        )

    def _find_always(self, unique_id: str) -> str | None:
        """Return why a node has to run every time; None if nothing says so."""
        node = self._session.node(unique_id)
        kind = str(node.resource_type)
        if kind in ("seed", "exposure", "saved_query"):
            return None
        if getattr(node, "language", "sql") != "sql":
            return f"it is written in {node.language}"
        packages = {macro.package_name for macro in self._session.manifest.macros.values()}
        # A unit test runs the code of its model.
        coded = self._session.node(node.depends_on.nodes[0]) if kind == "unit_test" else node
        texts = [coded.raw_code, *self._code.macro_texts(coded, packages - _DBT_PACKAGES)]
        metadata = getattr(node, "test_metadata", None)
        if metadata is not None:
            texts += [str(value) for value in metadata.kwargs.values()]
        texts.append(str(getattr(node.config, "where", None) or ""))
        found = find_in_code(texts)
        if found is not None:
            return f"it uses {found}"
        compiled = getattr(node, "compiled_code", None)
        if metadata is not None or not compiled or kind == "unit_test":
            return None
        from prefect_flows.transform.reuse.volatile_sql import find_in_sql

        return find_in_sql(compiled, self._session.profile.warehouse, self._declared(unique_id))

    def _declared(self, unique_id: str) -> set[tuple[str, str]]:
        """Return schema and name of the relations that a node declares to read, and of its own."""
        manifest = self._session.manifest
        parents = manifest.parent_map.get(unique_id, [])
        declared = set()
        for each in {unique_id, *parents, *self._inputs.get(unique_id)}:
            node: Any = manifest.sources.get(each) or manifest.nodes.get(each)
            if node is not None:
                name = getattr(node, "identifier", None) or node.alias
                declared.add((str(node.schema).lower(), str(name).lower()))
        return declared


def _has_new_rows(source: Any, loads: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a load of this run has added, changed or removed rows of a source table.

    Tables that a load does not count, for example child tables, count as changed with any other.
    """
    for load in loads.values():
        if load["schema"].lower() != source.schema.lower():
            continue
        rows, removed = load["rows"], load["removed"]
        if source.identifier in rows:
            return bool(rows[source.identifier] or removed.get(source.identifier))
        return any(rows.values()) or any(removed.values())
    return False
