"""Runs dbt commands in this process with dbtRunner: one parse, one private profile, `dbt deps`."""

from __future__ import annotations

import gc
import json
import os
import shlex
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing import resource_tracker
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import yaml
from dbt.adapters.factory import get_adapter_by_type
from dbt.cli.main import dbtRunner
from dbt.config.runtime import RuntimeConfig
from dbt.contracts.graph.manifest import Manifest
from dbt.parser.manifest import write_manifest
from dbt_common.exceptions import DbtBaseException

from prefect_flows.core.environment import set_variables
from prefect_flows.core.errors import (
    ProjectError,
    SelectionError,
    StageFailed,
    WarehouseUnreachable,
)
from prefect_flows.core.failure_class import FailureClass, classify, is_transient_refusal
from prefect_flows.core.files import make_folder
from prefect_flows.core.google_credentials import google_credentials
from prefect_flows.core.hints import get_hint
from prefect_flows.core.logger import Logger
from prefect_flows.core.postgres import application_name
from prefect_flows.core.profiles import Profile
from prefect_flows.core.project_folder import enter_folder, find_project_dir, shorten_path
from prefect_flows.core.temporary_folders import private_folder
from prefect_flows.transform.dbt_patches import (
    collect_garbage_rarely,
    find_callers_quickly,
    find_plugins_once,
    leave_defaults_out_of_schemas,
    patched_dbt,
)
from prefect_flows.transform.event_listener import Recorder, get_warning
from prefect_flows.transform.exception_capture import OnError, capture_errors
from prefect_flows.transform.node_callbacks import node_callbacks
from prefect_flows.transform.node_filter import NodeFilter, filter_nodes
from prefect_flows.transform.packages import (
    FILES,
    is_retryable_deps_error,
    skip_installed_packages,
)
from prefect_flows.transform.results import display_name
from prefect_flows.transform.statement_cancellation import (
    cancel_hooks_on_signal,
    cancel_statements_on_signal,
)
from prefect_flows.transform.test_batching.execution import batched_tests, reset_compilation
from prefect_flows.transform.warehouse_wait import limit_warehouse_wait

# dbt's generated event classes have no types.
Listener = Callable[[Any], None]

# dbt copies it into its artifacts; `query-comment` in dbt_project.yml, into each statement.
RUN_ID_VARIABLE = "DBT_ENV_CUSTOM_ENV_MILLRACE_RUN_ID"
# Tells dbt's `on-run-start` that models are built out of the readers' sight.
PUBLISHES_VARIABLE = "DBT_ENV_CUSTOM_ENV_MILLRACE_PUBLISHES"

# dbt's callbacks and adapters are global: concurrent invocations in a process would corrupt them.
_INVOCATION_LOCK = threading.Lock()


@dataclass(frozen=True)
class Selection:
    """What to run, in dbt's selection syntax.

    Attributes:
        select: values of `--select`.
        exclude: values of `--exclude`.
        deferred_to: folder with the manifest of an earlier run, to defer to (`--state`).
    """

    select: Sequence[str] = ()
    exclude: Sequence[str] = ()
    deferred_to: Path | None = None

    def arguments(self) -> list[str]:
        """Return the selection as arguments of dbt's command line.

        Each value is in one argument with its option (`--select=…`), so that dbt never reads a part
        of it as another option. An empty value selects nothing, as on dbt's command line.
        """
        arguments = [f"--select={' '.join(value.split())}" for value in self.select]
        arguments += [f"--exclude={' '.join(value.split())}" for value in self.exclude]
        if self.deferred_to is not None:
            arguments += ["--state", str(self.deferred_to)]
        return arguments

    def __str__(self) -> str:
        return shlex.join(self.arguments()) or "everything"


@dataclass(frozen=True)
class InvocationResult:
    """The result of one dbt command.

    Attributes:
        success: whether dbt's command line would exit with 0.
        results: dbt's results of nodes.
        exception: the exception that aborted the command.
        returned: the return value of dbt's command, which contains the results.
    """

    success: bool
    results: list[Any]
    exception: BaseException | None
    returned: Any


class DbtSession:
    """A dbt project and a target; a context manager.

    While the context is open, a private temporary folder holds a profiles.yml in which every secret
    is an `env_var` call. The variables are only set during an invocation.

    Args:
        project_dir: the dbt project.
        profile: the target's profile.
        target_path: dbt's target path; a partial parse in it makes the next parse faster.
        vars: dbt's `--vars`.
        run_id: is added to dbt's artifacts and to the comment of each statement.
        on_warning: called with dbt's warnings while it parses the project and selects nodes. A
            `Recorder` gets the warnings while nodes run.
        check_stop: raises a `KeyboardInterrupt` if the run was cancelled. It is called before each
            node and after each command, because dbt may swallow an interrupt.
        batch_tests: whether data tests that are ready together run in one statement.

    Attributes:
        unmatched: parts of the last selection that match no node.
    """

    def __init__(
        self,
        project_dir: Path,
        profile: Profile,
        target_path: Path,
        vars: Mapping[str, Any],
        run_id: str = "",
        on_warning: Callable[[str], None] | None = None,
        check_stop: Callable[[], None] = lambda: None,
        batch_tests: bool = False,
    ) -> None:
        self.project_dir = project_dir
        self.profile = profile
        self.target_path = target_path
        self.log_dir = target_path / "logs"
        self.vars = dict(vars)
        self._variables = profile.environment() | {RUN_ID_VARIABLE: run_id}
        if profile.publishes:
            self._variables[PUBLISHES_VARIABLE] = "1"
        self._manifest: Manifest | None = None
        self.unmatched: list[str] = []
        # Name of a package → its folder, relative to the dbt project.
        self._folders: Mapping[str, str] = {}
        self._on_warning = on_warning
        self._check_stop = check_stop
        self._batch_tests = batch_tests

    def __enter__(self) -> Self:
        make_folder(self.target_path)
        self._contexts = ExitStack()
        self._contexts.enter_context(collect_garbage_rarely())
        self._folder = self._contexts.enter_context(private_folder("dbt"))
        self._write_profile(self.profile.dbt_output())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._contexts.close()

    def _write_profile(self, output: Mapping[str, Any]) -> None:
        target = self.profile.target
        document = {self.profile.name: {"target": target, "outputs": {target: dict(output)}}}
        (self._folder / "profiles.yml").write_text(yaml.safe_dump(document))

    def _name_connections(self) -> None:
        """Name all further connections to Postgres after the run, as `pg_stat_activity` shows it.

        This follows the parse: dbt parses the whole project again if the name has changed.
        """
        if self.profile.warehouse == "postgres":
            name = application_name(self._variables[RUN_ID_VARIABLE])
            self._write_profile({"application_name": name} | self.profile.dbt_output())

    @property
    def manifest(self) -> Manifest:
        """The manifest of the project, which is parsed at the first access.

        Raises:
            ProjectError: the project does not parse.
        """
        if self._manifest is None:
            # `write_manifest` writes the manifest at the end, with compiled SQL.
            outcome = self._invoke(["parse", "--no-write-json"])
            if outcome.exception is not None:
                raise ProjectError(
                    f"The dbt project does not parse: {outcome.exception}",
                    where=str(self.project_dir),
                    fix=f"correct the file; to reproduce: {self._in_project(['parse'])}",
                ) from outcome.exception
            (self._manifest,) = outcome.results
            gc.freeze()
            self._name_connections()
            self._folders = {
                name: os.path.relpath(package.project_root, self.config.project_root)
                for name, package in self.config.load_dependencies().items()
            }
        return self._manifest

    def path_of(self, node: Any) -> str:
        """Return the path of a node's file relative to the dbt project, also for packages."""
        folder = self._folders.get(node.package_name, "")
        return str(PurePosixPath(folder, node.original_file_path))

    @property
    def config(self) -> RuntimeConfig:
        """The runtime configuration from dbt_project.yml, packages, variables and profile."""
        assert self.manifest is not None  # noqa: S101 # what reads it parses
        adapter: Any = get_adapter_by_type(self.profile.warehouse)  # type: ignore[no-untyped-call]
        config: RuntimeConfig = adapter.config
        return config

    def write_manifest(self) -> None:
        """Write `manifest.json` with the SQL that has been compiled so far."""
        write_manifest(self.manifest, str(self.target_path))

    @property
    def is_parsed(self) -> bool:
        """Whether the project has been parsed."""
        return self._manifest is not None

    def compiled(self, unique_id: str) -> tuple[Path, str] | None:
        """Return the path and text of a node's compiled SQL; None if it was not compiled."""
        node = self.node(unique_id)
        code, path = getattr(node, "compiled_code", None), getattr(node, "compiled_path", None)
        return (Path(path), code) if code and path else None

    def reset_compilation(self, unique_ids: Iterable[str]) -> None:
        """Reset nodes that an earlier attempt may have compiled."""
        for unique_id in unique_ids:
            reset_compilation(self.node(unique_id))

    def node(self, unique_id: str) -> Any:
        """Return a node by its id, of any resource type that dbt returns results for."""
        for nodes in self._nodes_by_type():
            if unique_id in nodes:
                return nodes[unique_id]
        raise KeyError(unique_id)

    def _nodes(self) -> Iterator[Any]:
        return chain.from_iterable(nodes.values() for nodes in self._nodes_by_type())

    def _nodes_by_type(self) -> list[Mapping[str, Any]]:
        m = self.manifest
        return [m.nodes, m.sources, m.unit_tests, m.exposures, m.saved_queries, m.functions]

    def has_packages(self) -> bool:
        """Return whether the project has a packages.yml or a dependencies.yml."""
        return bool(self._package_files())

    def _package_files(self) -> list[Path]:
        return [file for name in FILES if (file := self.project_dir / name).exists()]

    def install_packages(self) -> dict[str, Any]:
        """Run `dbt deps` if the installed packages do not match package-lock.yml.

        The stage `dbt-deps` retries it as `StagePolicies.dbt_deps` in `core/settings.py` says.

        Returns:
            A record that says whether packages were installed.

        Raises:
            ProjectError: a package cannot be installed; `retryable` if a download failed.
        """
        kept: list[bool] = []
        with skip_installed_packages(lambda: kept.append(True)):
            outcome = self._invoke(["deps"], artifacts=False)
        if (error := outcome.exception) is not None:
            retryable = is_retryable_deps_error(error)
            what = "see that this machine reaches the registry" if retryable else "correct it"
            raise ProjectError(
                f"dbt's packages cannot be installed: {' '.join(str(error).split())}",
                where=", ".join(str(file) for file in self._package_files()),
                fix=f"{what}; to reproduce: {self._in_project(['deps'])}",
                retryable=retryable,
            ) from error
        return {"installed": not kept}

    def check_connection(self, seconds: float, log: Logger) -> None:
        """Connect to the warehouse once, before anything is changed.

        This uses the adapter of the parse; `dbt debug` would read profile and project again.

        Args:
            seconds: how long to wait for an answer.
            log: the log for messages while this waits.

        Raises:
            ProjectError: the project does not parse.
            WarehouseUnreachable: the warehouse does not answer, or refuses the credentials;
                `retryable` if it answers with a transient error.
        """
        assert self.manifest is not None  # noqa: S101 # parses the project without the warehouse
        with limit_warehouse_wait(self.profile, seconds, log), self._warehouse() as adapter:
            adapter.debug_query()

    def find_unloaded_sources(self, names: Collection[str]) -> list[str]:
        """Return the sources that dbt reads but that were never loaded into the warehouse.

        Args:
            names: names of the sources to check.

        Raises:
            ProjectError: the project does not parse.
            WarehouseUnreachable: the warehouse does not answer.
        """
        places = {
            source.source_name: (source.database, source.schema)
            for source in self.manifest.sources.values()
            if source.source_name in names
        }
        if not places:
            return []
        with self._warehouse() as adapter:
            return sorted(
                name for name, place in places.items() if not self._has_loads(adapter, *place)
            )

    def _has_loads(self, adapter: Any, database: str | None, schema: str) -> bool:
        if self.profile.warehouse == "bigquery":
            return bool(adapter.check_schema_exists(database, schema))
        quoted = schema.replace("'", "''")
        _, table = adapter.execute(
            f"select to_regclass(format('%I._dlt_loads', '{quoted}'))",
            fetch=True,
        )
        return table.rows[0][0] is not None

    @contextmanager
    def _warehouse(
        self, is_retryable: Callable[[BaseException], bool] = is_transient_refusal
    ) -> Iterator[Any]:
        assert self.manifest is not None  # noqa: S101 # what reads it parses
        if self.profile.warehouse == "bigquery":
            # Without credentials, dbt's adapter fails on the connection that it could not open.
            google_credentials(self.profile)
        adapter: Any = get_adapter_by_type(self.profile.warehouse)  # type: ignore[no-untyped-call]
        try:
            with _INVOCATION_LOCK, adapter.connection_named("check"):
                yield adapter
        except DbtBaseException as error:
            raise WarehouseUnreachable(
                f"Cannot connect to the warehouse of target {self.profile.target!r}: "
                f"{' '.join(str(error).split())}",
                where=self.profile.address,
                fix=get_hint(error, self.profile),
                retryable=is_retryable(error),
            ) from error
        finally:
            adapter.cleanup_connections()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Yield what dbt's adapter opens: a psycopg2 connection, or BigQuery's client.

        A signal cancels the statements of the connection, but not the jobs that the client sends.

        Raises:
            WarehouseUnreachable: the warehouse does not answer.
        """
        with self._warehouse() as adapter, cancel_statements_on_signal(adapter):
            yield adapter.connections.get_thread_connection().handle

    def render_relation(self, node: Any) -> str:
        """Return the name of a node's relation, quoted as dbt writes it into SQL."""
        adapter: Any = get_adapter_by_type(self.profile.warehouse)  # type: ignore[no-untyped-call]
        return str(adapter.Relation.create_from(self.config, node))

    def selected(self, selection: Selection) -> dict[str, list[str]]:
        """Return the ids of the selected nodes by resource type.

        Raises:
            SelectionError: the selection matches no node, or is not valid.
        """
        fix = (
            f"{self._in_project(['ls', *selection.arguments()])} shows what is selected; "
            "the names of models are the names of their files"
        )
        self.unmatched = []
        if selection.arguments() or (self.project_dir / "selectors.yml").exists():
            nodes, self.unmatched = self._list(selection, fix)
            found = [(node["resource_type"], node["unique_id"]) for node in nodes]
        else:
            found = [(str(node.resource_type), node.unique_id) for node in self._nodes()]
        selected: dict[str, list[str]] = {}
        for resource_type, unique_id in found:
            if self._is_executed(unique_id):
                selected.setdefault(resource_type, []).append(unique_id)
        if not selected:
            raise SelectionError(
                "The selection matches no node of the dbt project.",
                where=str(selection),
                fix=fix,
            )
        return selected

    def _list(self, selection: Selection, fix: str) -> tuple[list[dict[str, str]], list[str]]:
        """Return the nodes that `dbt ls` lists, and the parts of the selection that match none."""
        unmatched: list[str] = []

        def on_event(event: Any) -> None:
            if event.info.name == "NoNodesForSelectionCriteria":
                unmatched.append(event.data.spec_raw)
            else:
                self._forward_warning(event)

        keys = ["--output", "json", "--output-keys", "unique_id", "resource_type"]
        outcome = self.invoke(["ls", "--quiet", *keys], selection.arguments(), on_event=on_event)
        if outcome.exception is not None:
            raise SelectionError(
                f"The selection is not valid: {outcome.exception}",
                where=str(selection),
                fix=fix,
            ) from outcome.exception
        return [json.loads(line) for line in outcome.results], list(dict.fromkeys(unmatched))

    def _is_executed(self, unique_id: str) -> bool:
        """Return whether dbt executes a node: no ephemeral model, no source without freshness."""
        if unique_id in self.manifest.sources:
            return bool(self.manifest.sources[unique_id].has_freshness)
        return not (
            unique_id in self.manifest.nodes and self.manifest.nodes[unique_id].is_ephemeral_model
        )

    def find_missing_source_tables(
        self, sources: Sequence[str], built: Sequence[str]
    ) -> dict[str, str]:
        """Return source id → id of the node that builds its table, for missing tables.

        Args:
            sources: ids of the sources to check.
            built: ids of the seeds, snapshots and models of the run.

        Raises:
            WarehouseUnreachable: the warehouse does not answer.
        """
        builders = {self.manifest.nodes[i].relation_name: i for i in built}
        found = {i: builders.get(self.manifest.sources[i].relation_name) for i in sources}
        if not any(found.values()):
            return {}
        missing = {}
        with self._warehouse() as adapter:
            for unique_id, builder in found.items():
                source = self.manifest.sources[unique_id]
                names = source.database, source.schema, source.identifier
                if builder is not None and adapter.get_relation(*names) is None:
                    missing[unique_id] = builder
        return missing

    def find_absent_source_tables(self) -> list[str]:
        """Return the source tables that nodes read and that the warehouse does not have.

        Raises:
            ProjectError: the project does not parse.
            WarehouseUnreachable: the warehouse does not answer.
        """
        children = self.manifest.child_map
        read = [source for i, source in self.manifest.sources.items() if children.get(i)]
        with self._warehouse() as adapter:
            return sorted(
                f"{source.schema}.{source.identifier}"
                for source in read
                if adapter.get_relation(source.database, source.schema, source.identifier) is None
            )

    def row_counts(self, unique_ids: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
        """Count the rows of relations; return counts and errors of unreadable ones, by name.

        Raises:
            WarehouseUnreachable: the warehouse does not answer; `retryable` if that is transient.
        """
        nodes = sorted((self.manifest.nodes[i] for i in unique_ids), key=display_name)
        try:
            return self._count_rows(nodes), {}
        except WarehouseUnreachable as error:
            if error.retryable:
                raise
        counts: dict[str, int] = {}
        unreadable: dict[str, str] = {}
        for node in nodes:
            try:
                counts |= self._count_rows([node])
            except WarehouseUnreachable as error:
                if error.retryable:
                    raise
                unreadable[display_name(node)] = " ".join(str(error.__cause__).split())
        return counts, unreadable

    def _count_rows(self, nodes: Sequence[Any]) -> dict[str, int]:
        query = " union all ".join(
            # dbt has quoted the relations. Numbers need no quotes, unlike names.
            f"select {number} as mart, count(*) as row_count from {node.relation_name}"  # noqa: S608
            for number, node in enumerate(nodes)
        )
        with (
            self._warehouse(
                is_retryable=lambda error: classify(error) is FailureClass.TRANSIENT
            ) as adapter,
            cancel_statements_on_signal(adapter),
        ):
            _, table = adapter.execute(query, fetch=True)
        return {
            display_name(nodes[int(mart)]): int(rows)
            for mart, rows in sorted(tuple(row) for row in table.rows)
        }

    def first_rows(self, sql: str, limit: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Return the column names and the first rows of a query with `dbt show`.

        Args:
            sql: compiled SQL.
            limit: the largest number of rows.

        Raises:
            DbtBaseException: the warehouse refuses the query.
        """
        # Compiled SQL may contain braces that are no Jinja.
        inline = f"{{% raw %}}{sql}{{% endraw %}}"
        outcome = self.invoke(["show", "--quiet", "--inline", inline, "--limit", str(limit)])
        if outcome.exception is not None:
            raise outcome.exception
        (result,) = outcome.results
        table = result.agate_table
        return list(table.column_names), [tuple(row.values()) for row in table.rows]

    def generate_docs(self) -> int:
        """Run `dbt docs generate`: write `manifest.json`, `catalog.json` and `static_index.html`.

        Returns:
            The number of relations in the catalog.

        Raises:
            DbtBaseException: dbt aborted.
            StageFailed: the catalog, or a part of it, cannot be read from the warehouse.
        """
        self.write_manifest()
        outcome = self._invoke(
            ["docs", "generate", "--no-compile", "--static"], manifest=self.manifest
        )
        if outcome.exception is not None:
            raise outcome.exception
        if not outcome.success:
            faults = getattr(outcome.returned, "errors", None) or ["dbt does not say why"]
            raise StageFailed(
                f"dbt's catalog is incomplete: {' '.join(str(faults[0]).split())}.",
                where=self.profile.address,
                fix="reproduce: "
                f"{self._in_project(['docs', 'generate', '--target', self.profile.target])}; "
                "or --skip docs",
                record={},
                retryable=False,
            )
        return len(outcome.returned.nodes) + len(outcome.returned.sources)

    def invoke(
        self,
        command: Sequence[str],
        arguments: Sequence[str] = (),
        recorder: Recorder | None = None,
        *,
        node_filter: NodeFilter | None = None,
        on_error: OnError | None = None,
        on_event: Listener | None = None,
    ) -> InvocationResult:
        """Run one dbt command on the parsed project.

        dbt does not write its artifacts: Millrace merges results over commands and attempts, and
        `write_manifest` writes the manifest.

        Args:
            command: the dbt command.
            arguments: its arguments.
            recorder: gets the start and the result of each node, and dbt's warnings.
            node_filter: the nodes of the selection to run; None for all.
            on_error: called with the exception of each failed node, before its result, and of each
                failed batch of a microbatch model.
            on_event: called with each dbt event; ignored if there is a recorder.
        """
        manifest = self.manifest
        with ExitStack() as contexts:
            contexts.enter_context(patched_dbt())
            contexts.enter_context(filter_nodes(node_filter))
            contexts.enter_context(cancel_hooks_on_signal())
            if on_error is not None:
                contexts.enter_context(capture_errors(on_error))
            if recorder is not None:
                contexts.enter_context(
                    node_callbacks(recorder.started, recorder.finished, self._check_stop)
                )
                if self._batch_tests:
                    contexts.enter_context(batched_tests(recorder.started))
            return self._invoke(
                [*command, *arguments, "--no-write-json"],
                recorder.listen if recorder is not None else on_event,
                manifest=manifest,
            )

    def show_path(self, path: str) -> str:
        """Return the path of a file of the dbt project, relative to the project's folder."""
        return str(shorten_path(self.project_dir / path, find_project_dir()))

    def _in_project(self, arguments: Sequence[str]) -> str:
        """Return the shell command with which a person runs a dbt command in the project."""
        enter = enter_folder(self.project_dir, find_project_dir())
        return f"{enter}{shlex.join(['uv', 'run', 'dbt', *arguments])}"

    def _forward_warning(self, event: Any) -> None:
        if self._on_warning is not None and (text := get_warning(event)):
            self._on_warning(text)

    def _invoke(
        self,
        arguments: list[str],
        on_event: Listener | None = None,
        manifest: Manifest | None = None,
        artifacts: bool = True,
    ) -> InvocationResult:
        common = [
            "--project-dir", str(self.project_dir),
            "--profiles-dir", str(self._folder),
            "--target", self.profile.target,
            "--vars", json.dumps(self.vars),
            "--no-use-colors",
            "--log-level", "none",
            "--log-level-file", "info",
            "--log-path", str(self.log_dir),
            # No limit: with the path of a large seed as its checksum, dbt misses its changes.
            "--maximum-seed-size-mib", "0",
        ]  # fmt: skip
        if artifacts:
            common += ["--target-path", str(self.target_path)]
        runner = dbtRunner(manifest=manifest, callbacks=[on_event or self._forward_warning])
        if os.name != "nt":
            # Python starts this child process for dbt's locks, and it outlives the command. Start
            # it now, before the secrets are in the environment.
            resource_tracker.ensure_running()
        with (
            _INVOCATION_LOCK,
            set_variables(self._variables),
            find_callers_quickly(),
            find_plugins_once(),
            leave_defaults_out_of_schemas(),
        ):
            returned = runner.invoke([*arguments, *common])
        if returned.exception is not None and not isinstance(returned.exception, Exception):
            # dbtRunner also catches interrupts and the timeouts of tasks; raise them again.
            raise returned.exception
        # The exception may be dbt's conversion of an interrupt.
        self._check_stop()
        result: Any = returned.result
        if result is None:
            results = []
        elif isinstance(result, list):
            results = result
        else:
            results = list(getattr(result, "results", [result]))
        return InvocationResult(returned.success, results, returned.exception, result)
