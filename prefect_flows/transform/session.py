"""One dbt process for a whole run: one parse, one private profile, every command in-process."""

from __future__ import annotations

import json
import os
import shlex
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
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

from prefect_flows.core.environment import variables_set
from prefect_flows.core.errors import (
    ProjectError,
    SelectionError,
    StageFailed,
    WarehouseUnreachable,
)
from prefect_flows.core.failure_class import FailureClass, classify, is_refusal_that_may_pass
from prefect_flows.core.files import make_folder
from prefect_flows.core.google_credentials import google_credentials
from prefect_flows.core.hints import get_hint
from prefect_flows.core.logger import Logger
from prefect_flows.core.profiles import Profile
from prefect_flows.core.temporary_folders import private_folder
from prefect_flows.transform.dbt_patches import spared
from prefect_flows.transform.event_listener import Recorder, warning_of
from prefect_flows.transform.exception_capture import OnError, errors_seen
from prefect_flows.transform.node_callbacks import nodes_seen
from prefect_flows.transform.node_filter import Narrowing, narrowed_to
from prefect_flows.transform.packages import (
    FILES,
    installed_packages_kept,
    may_be_installed_later,
)
from prefect_flows.transform.results import shown_name
from prefect_flows.transform.statement_cancellation import (
    hooks_cancelled_on_signal,
    statements_cancelled_on_signal,
)
from prefect_flows.transform.warehouse_wait import warehouse_awaited

# dbt's generated event messages carry no types.
Listener = Callable[[Any], None]

# dbt copies it into its artifacts, and `query-comment` in dbt_project.yml into each statement.
RUN_ID_VARIABLE = "DBT_ENV_CUSTOM_ENV_MILLRACE_RUN_ID"

# dbt's callbacks and adapters are global to a process: two invocations at once corrupt each other.
_ONE_INVOCATION = threading.Lock()


@dataclass(frozen=True)
class Selection:
    """What to run, in dbt's own selection syntax.

    Attributes:
        since: folder with the manifest of another target: of what is selected, only what differs
            from it and all that depends on it; the rest is deferred to.
        deferred_to: folder with the manifest of an earlier run, which has what is not run.
    """

    select: Sequence[str] = ()
    exclude: Sequence[str] = ()
    since: Path | None = None
    deferred_to: Path | None = None

    def arguments(self) -> list[str]:
        """The selection as arguments of dbt's command line.

        Each value stands in one argument with its option, so that dbt never reads a word of it as
        an option of its own. A value without a word selects nothing, as on dbt's command line.
        """
        select = [" ".join(value.split()) for value in self.select]
        if self.since is not None:
            words = [word for value in select for word in value.split()]
            changed = " ".join(f"state:modified+,{word}" for word in words)
            select = [changed if select else "state:modified+"]
        arguments = [f"--select={value}" for value in select]
        arguments += [f"--exclude={' '.join(value.split())}" for value in self.exclude]
        state = self.since or self.deferred_to
        if state is not None:
            arguments += ["--state", str(state)]
        return arguments

    def __str__(self) -> str:
        return shlex.join(self.arguments()) or "everything"


@dataclass(frozen=True)
class InvocationResult:
    """What one command gave.

    Attributes:
        success: dbt's own word, which is the exit code of its command line.
        results: dbt's results.
        exception: what ended the command before it was through.
        returned: what dbt's command returned, of which the results are a part.
    """

    success: bool
    results: list[Any]
    exception: BaseException | None
    returned: Any


class DbtSession:
    """A dbt project bound to a target.

    Used as a context: the profile lies in a private temporary folder in which every secret is an
    `env_var`, and folder and variables are gone when the context, or the invocation, ends.

    Args:
        project_dir: the dbt project.
        profile: the target's profile.
        target_path: folder of dbt's artifacts; keeping it saves most of the next parse.
        vars: dbt's `--vars`.
        run_id: goes into dbt's artifacts, and into the comment of each statement.
        on_warning: is told what dbt warns of while it parses the project and selects nodes; a
            `Recorder` is told what it warns of while it runs them.
        check_stop: raises a `KeyboardInterrupt` if the run was told to stop. It is called before
            each node and after each command: dbt may have swallowed the interrupt itself.
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
    ) -> None:
        self.project_dir = project_dir
        self.profile = profile
        self.target_path = target_path
        self.log_dir = target_path / "logs"
        self.vars = dict(vars)
        self._variables = profile.environment() | {RUN_ID_VARIABLE: run_id}
        self._manifest: Manifest | None = None
        # What the last selection names that no node of the project has.
        self.unmatched: list[str] = []
        # Name of a package → its folder, from the dbt project.
        self._folders: Mapping[str, str] = {}
        self._on_warning = on_warning
        self._check_stop = check_stop

    def __enter__(self) -> Self:
        make_folder(self.target_path)
        self._contexts = ExitStack()
        self._folder = self._contexts.enter_context(private_folder("dbt"))
        document = {
            self.profile.name: {
                "target": self.profile.target,
                "outputs": {self.profile.target: self.profile.dbt_output()},
            }
        }
        (self._folder / "profiles.yml").write_text(yaml.safe_dump(document))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._contexts.close()

    @property
    def manifest(self) -> Manifest:
        """The parsed project; parsed at the first call.

        Raises:
            ProjectError: the project does not parse.
        """
        if self._manifest is None:
            # The manifest is written once, by `write_manifest`, and not before the first model.
            outcome = self._invoke(["parse", "--no-write-json"])
            if outcome.exception is not None:
                raise ProjectError(
                    f"The dbt project does not parse: {outcome.exception}",
                    where=str(self.project_dir),
                    fix=f"correct the file; to see it again: {self._in_project(['parse'])}",
                ) from outcome.exception
            (self._manifest,) = outcome.results
            self._folders = {
                name: os.path.relpath(package.project_root, self.config.project_root)
                for name, package in self.config.load_dependencies().items()
            }
        return self._manifest

    def path_of(self, node: Any) -> str:
        """Path of a node's file, from the dbt project; a package's lies where it is installed."""
        folder = self._folders.get(node.package_name, "")
        return str(PurePosixPath(folder, node.original_file_path))

    @property
    def config(self) -> RuntimeConfig:
        """What dbt made of dbt_project.yml, the packages, the variables and the profile."""
        assert self.manifest is not None  # noqa: S101 # what reads it parses
        adapter: Any = get_adapter_by_type(self.profile.warehouse)  # type: ignore[no-untyped-call]
        config: RuntimeConfig = adapter.config
        return config

    def write_manifest(self) -> None:
        """Write `manifest.json`, with the SQL that was compiled so far."""
        write_manifest(self.manifest, str(self.target_path))

    @property
    def is_parsed(self) -> bool:
        """Whether the project was parsed already."""
        return self._manifest is not None

    def compiled(self, unique_id: str) -> tuple[Path, str] | None:
        """File and text of a node's compiled SQL; none where nothing was compiled."""
        node = self.node(unique_id)
        code, path = getattr(node, "compiled_code", None), getattr(node, "compiled_path", None)
        return (Path(path), code) if code and path else None

    def compile_again(self, unique_ids: Iterable[str]) -> None:
        """Let dbt compile nodes anew, which may have been compiled at an earlier attempt.

        It puts ephemeral models into a node once; what it compiles then is without them.
        """
        for unique_id in unique_ids:
            node = self.node(unique_id)
            if getattr(node, "extra_ctes_injected", False):
                node.extra_ctes, node.extra_ctes_injected = [], False

    def node(self, unique_id: str) -> Any:
        """Any node of the project that a command has a result for."""
        for found in self._nodes_by_kind():
            if unique_id in found:
                return found[unique_id]
        raise KeyError(unique_id)

    def _nodes(self) -> Iterator[Any]:
        return chain.from_iterable(found.values() for found in self._nodes_by_kind())

    def _nodes_by_kind(self) -> list[Mapping[str, Any]]:
        m = self.manifest
        return [m.nodes, m.sources, m.unit_tests, m.exposures, m.saved_queries, m.functions]

    def has_packages(self) -> bool:
        """Whether the project asks for dbt packages."""
        return bool(self._package_files())

    def _package_files(self) -> list[Path]:
        return [file for name in FILES if (file := self.project_dir / name).exists()]

    def install_packages(self) -> dict[str, Any]:
        """Run `dbt deps`, which has to come before the parse; nothing where all are installed.

        Returns:
            A record: whether packages were installed.

        Raises:
            ProjectError: a package cannot be installed; `retryable` where a download failed.
        """
        kept: list[bool] = []
        with installed_packages_kept(lambda: kept.append(True)):
            outcome = self._invoke(["deps"], artifacts=False)
        if (error := outcome.exception) is not None:
            retryable = may_be_installed_later(error)
            what = "see that this machine reaches the registry" if retryable else "correct it"
            raise ProjectError(
                f"dbt's packages cannot be installed: {' '.join(str(error).split())}",
                where=", ".join(str(file) for file in self._package_files()),
                fix=f"{what}; to see it again: {self._in_project(['deps'])}",
                retryable=retryable,
            ) from error
        return {"installed": not kept}

    def check_connection(self, seconds: float, log: Logger) -> None:
        """Connect to the warehouse once, before anything is changed.

        With the adapter that the parse made: a `dbt debug` would read profile and project again.

        Args:
            seconds: how long a warehouse that does not answer is waited for.
            log: says that it is.

        Raises:
            ProjectError: the project does not parse.
            WarehouseUnreachable: it does not answer, or refuses the credentials; retryable when it
                answers that it takes no connections now.
        """
        assert self.manifest is not None  # noqa: S101 # the parse needs no warehouse
        with warehouse_awaited(self.profile, seconds, log), self._warehouse() as adapter:
            adapter.debug_query()

    def never_loaded(self, names: Collection[str]) -> list[str]:
        """Of these sources, those that dbt reads and of which the warehouse has no load.

        Raises:
            ProjectError: the project does not parse.
            WarehouseUnreachable: it does not answer.
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
        self, may_pass: Callable[[BaseException], bool] = is_refusal_that_may_pass
    ) -> Iterator[Any]:
        assert self.manifest is not None  # noqa: S101 # what reads it parses
        if self.profile.warehouse == "bigquery":
            # dbt's adapter breaks on the connection that it could not open for want of them.
            google_credentials(self.profile)
        adapter: Any = get_adapter_by_type(self.profile.warehouse)  # type: ignore[no-untyped-call]
        try:
            with _ONE_INVOCATION, adapter.connection_named("check"):
                yield adapter
        except DbtBaseException as error:
            raise WarehouseUnreachable(
                f"The warehouse of target {self.profile.target!r} cannot be used: "
                f"{' '.join(str(error).split())}",
                where=self.profile.address,
                fix=get_hint(error, self.profile),
                retryable=may_pass(error),
            ) from error
        finally:
            adapter.cleanup_connections()

    def selected(self, selection: Selection) -> dict[str, list[str]]:
        """Ids of the selected nodes by resource type; none when nothing has changed since.

        Raises:
            SelectionError: nothing is selected, or the selection is not valid.
        """
        fix = (
            f"{self._in_project(['ls', *selection.arguments()])} shows what is selected; "
            "the names of models are the names of their files"
        )
        self.unmatched = []
        if selection.arguments() or (self.project_dir / "selectors.yml").exists():
            nodes, self.unmatched = self._list(selection, fix)
            if selection.since is not None:
                # Nodes that did not change match nothing either: without `since`, it is a fault.
                whole = replace(selection, since=None)
                self.unmatched = self._list(whole, fix)[1] if whole.arguments() else []
            found = [(node["resource_type"], node["unique_id"]) for node in nodes]
        else:
            found = [(str(node.resource_type), node.unique_id) for node in self._nodes()]
        selected: dict[str, list[str]] = {}
        for resource_type, unique_id in found:
            if self._is_executed(unique_id):
                selected.setdefault(resource_type, []).append(unique_id)
        if not selected and selection.since is None:
            raise SelectionError(
                "The selection matches no node of the dbt project.",
                where=str(selection),
                fix=fix,
            )
        return selected

    def _list(self, selection: Selection, fix: str) -> tuple[list[dict[str, str]], list[str]]:
        """The nodes that `dbt ls` lists, and the parts of the selection that match none."""
        unmatched: list[str] = []

        def listen(event: Any) -> None:
            if event.info.name == "NoNodesForSelectionCriteria":
                unmatched.append(event.data.spec_raw)
            else:
                self._listen(event)

        keys = ["--output", "json", "--output-keys", "unique_id", "resource_type"]
        outcome = self.invoke(["ls", "--quiet", *keys], selection.arguments(), on_event=listen)
        if outcome.exception is not None:
            raise SelectionError(
                f"The selection is not valid: {outcome.exception}",
                where=str(selection),
                fix=fix,
            ) from outcome.exception
        return [json.loads(line) for line in outcome.results], list(dict.fromkeys(unmatched))

    def _is_executed(self, unique_id: str) -> bool:
        """Whether a command has a result for the node; a model may live only inside others."""
        if unique_id in self.manifest.sources:
            return bool(self.manifest.sources[unique_id].has_freshness)
        return not (
            unique_id in self.manifest.nodes and self.manifest.nodes[unique_id].is_ephemeral_model
        )

    def sources_to_be_made(self, sources: Sequence[str], made: Sequence[str]) -> dict[str, str]:
        """Id of each source whose table is missing → id of the node that makes this table.

        Args:
            sources: ids of sources.
            made: ids of the seeds, snapshots and models to choose from.

        Raises:
            WarehouseUnreachable: it does not answer.
        """
        makers = {self.manifest.nodes[i].relation_name: i for i in made}
        found = {i: makers.get(self.manifest.sources[i].relation_name) for i in sources}
        if not any(found.values()):
            return {}
        missing = {}
        with self._warehouse() as adapter:
            for unique_id, maker in found.items():
                source = self.manifest.sources[unique_id]
                names = source.database, source.schema, source.identifier
                if maker is not None and adapter.get_relation(*names) is None:
                    missing[unique_id] = maker
        return missing

    def row_counts(self, unique_ids: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
        """Rows of the given relations, and the errors of those that cannot be read: by name.

        Raises:
            WarehouseUnreachable: the warehouse does not answer; `retryable` when that may pass.
        """
        nodes = sorted((self.manifest.nodes[i] for i in unique_ids), key=shown_name)
        try:
            return self._counted(nodes), {}
        except WarehouseUnreachable as error:
            if error.retryable:
                raise
        counts: dict[str, int] = {}
        unreadable: dict[str, str] = {}
        for node in nodes:
            try:
                counts |= self._counted([node])
            except WarehouseUnreachable as error:
                if error.retryable:
                    raise
                unreadable[shown_name(node)] = " ".join(str(error.__cause__).split())
        return counts, unreadable

    def _counted(self, nodes: Sequence[Any]) -> dict[str, int]:
        query = " union all ".join(
            # Relations are dbt's own, quoted for the warehouse; names would need its quotes too.
            f"select {number} as mart, count(*) as row_count from {node.relation_name}"  # noqa: S608
            for number, node in enumerate(nodes)
        )
        with (
            self._warehouse(
                may_pass=lambda error: classify(error) is FailureClass.TRANSIENT
            ) as adapter,
            statements_cancelled_on_signal(adapter),
        ):
            _, table = adapter.execute(query, fetch=True)
        return {
            shown_name(nodes[int(mart)]): int(rows)
            for mart, rows in sorted(tuple(row) for row in table.rows)
        }

    def first_rows(self, sql: str, limit: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Names of the columns and first rows of a query in the warehouse's own SQL.

        Raises:
            DbtBaseException: the warehouse refuses it.
        """
        # Compiled SQL is no template any more.
        inline = f"{{% raw %}}{sql}{{% endraw %}}"
        outcome = self.invoke(["show", "--quiet", "--inline", inline, "--limit", str(limit)])
        if outcome.exception is not None:
            raise outcome.exception
        (result,) = outcome.results
        table = result.agate_table
        return list(table.column_names), [tuple(row.values()) for row in table.rows]

    def generate_docs(self) -> None:
        """Write `manifest.json`, `catalog.json`, and the page of both, `static_index.html`.

        Raises:
            DbtBaseException: dbt did not run through.
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
                f"dbt's catalog is not whole: {' '.join(str(faults[0]).split())}.",
                where=self.profile.address,
                fix=f"see it again: cd {self.project_dir.name} && "
                f"uv run dbt docs generate --target {self.profile.target}; or --skip docs",
                record={},
                retryable=False,
            )

    def invoke(
        self,
        command: Sequence[str],
        arguments: Sequence[str] = (),
        recorder: Recorder | None = None,
        *,
        narrowing: Narrowing | None = None,
        on_error: OnError | None = None,
        on_event: Listener | None = None,
    ) -> InvocationResult:
        """Run one dbt command on the parsed project.

        dbt's own artifacts are not written: results are merged over commands and attempts, and the
        manifest was written by the parse.

        Args:
            recorder: is told of each node that begins and ends, and of dbt's warnings.
            narrowing: the nodes to which the selection is narrowed; all of it when none.
            on_error: is told the error of each node that failed, before its event `NodeFinished`,
                and that of each batch of a microbatch model.
            on_event: is told each event of dbt; a recorder listens by itself.
        """
        manifest = self.manifest
        with ExitStack() as contexts:
            contexts.enter_context(spared())
            contexts.enter_context(narrowed_to(narrowing))
            contexts.enter_context(hooks_cancelled_on_signal())
            if on_error is not None:
                contexts.enter_context(errors_seen(on_error))
            if recorder is not None:
                contexts.enter_context(
                    nodes_seen(recorder.started, recorder.finished, self._check_stop)
                )
            return self._invoke(
                [*command, *arguments, "--no-write-json"],
                recorder.listen if recorder is not None else on_event,
                manifest=manifest,
            )

    def _in_project(self, arguments: Sequence[str]) -> str:
        """The line that a person runs in a shell for a command of dbt."""
        folder = shlex.quote(self.project_dir.name)
        return f"cd {folder} && {shlex.join(['uv', 'run', 'dbt', *arguments])}"

    def _listen(self, event: Any) -> None:
        if self._on_warning is not None and (text := warning_of(event)):
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
        ]  # fmt: skip
        if artifacts:
            common += ["--target-path", str(self.target_path)]
        runner = dbtRunner(manifest=manifest, callbacks=[on_event or self._listen])
        if os.name != "nt":
            # Python starts it for dbt's locks. It outlives the command, and its environment would
            # hold the secrets for as long.
            resource_tracker.ensure_running()
        with _ONE_INVOCATION, variables_set(self._variables):
            returned = runner.invoke([*arguments, *common])
        if returned.exception is not None and not isinstance(returned.exception, Exception):
            # An interrupt, or the timeout of a task: dbt's runner swallows what should end us.
            raise returned.exception
        # What ended the command may be what dbt made of an interrupt.
        self._check_stop()
        result: Any = returned.result
        if result is None:
            results = []
        elif isinstance(result, list):
            results = result
        else:
            results = list(getattr(result, "results", [result]))
        return InvocationResult(returned.success, results, returned.exception, result)
