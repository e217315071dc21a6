"""Lets `dbt test` and `dbt build` run the data tests that are ready together, in batches.

dbt's threads take one test at a time from its queue, render a materialization for it and send a
statement. With `batched_tests`, they take a batch: they compile each test as dbt does, send one
statement for all, and return dbt's own result for each test. A test that cannot be batched goes
dbt's own way, and so do the tests of a statement that fails: it is split until the test that fails
is alone.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from dbt.adapters.factory import get_adapter, get_adapter_package_names
from dbt.artifacts.schemas.results import TimingInfo, collect_timing_info
from dbt.contracts.graph.nodes import GenericTestNode, SingularTestNode
from dbt.flags import get_flags
from dbt.task.build import BuildTask
from dbt.task.run import RunTask
from dbt.task.runnable import GraphRunnableTask
from dbt.task.test import TestResultData, TestRunner, TestTask
from dbt_common.exceptions import DbtBaseException

from prefect_flows.core.failure_class import FailureClass, classify
from prefect_flows.transform.monkeypatch import patched
from prefect_flows.transform.results import SHARED_BY
from prefect_flows.transform.test_batching.statement import (
    DataTest,
    Warehouse,
    build_statement,
    read_rows,
    shares_scan,
)

_LOG = logging.getLogger(__name__)

# Limits of a statement. BigQuery accepts a million characters and a thousand tables.
MAX_TESTS = 50
MAX_CHARACTERS = 200_000
MAX_RELATIONS = 100
# On Postgres, so many batches for each thread let all threads end at about the same time.
BATCHES_PER_THREAD = 3
# The name of the connection, which dbt writes into the comment of a statement without a node.
CONNECTION = "data-tests"
# What these macros do, `build_statement` does as well: a project that replaces one is not batched.
MACROS = frozenset({"get_test_sql", "get_limit_subquery_sql", "get_limit_sql", "statement"})
# A test with `meta: {run_alone: true}` is not batched.
ALONE = "run_alone"
# Entries of BigQuery's `adapter_response` that are amounts; each test gets its share.
_AMOUNTS = ("bytes_processed", "bytes_billed", "slot_ms")


@contextmanager
def batched_tests(started: Callable[[Any], None]) -> Iterator[None]:
    """Batch the data tests of dbt's invocations while the context is open.

    Args:
        started: called with each test when its batch starts; a test that goes dbt's own way calls
            it there.
    """
    batches: dict[RunTask, _Batches | None] = {}
    cancelled = threading.Event()
    cancel = GraphRunnableTask._cancel_connections  # noqa: SLF001 # dbt has no public hook

    def cancel_batches(self: GraphRunnableTask, pool: Any) -> None:
        cancelled.set()
        cancel(self, pool)  # type: ignore[no-untyped-call]

    def batch(handle: Callable[..., None]) -> Callable[..., None]:
        def handle_ready_nodes(self: RunTask, pool: Any, callback: Any) -> None:
            if self not in batches:
                can_batch = isinstance(self, TestTask | BuildTask) and _can_batch(self)
                batches[self] = _Batches(self, started, cancelled) if can_batch else None
            batched = batches[self]
            if batched is None:
                handle(self, pool, callback)
                return
            tests = []
            queue: Any = self.job_queue
            for node in _take_ready(queue):
                if batched.accepts(node):
                    tests.append(node)
                else:
                    with patched(queue, "get", lambda node=node: node):
                        handle(self, pool, callback)
            if tests:
                self._raise_set_error()  # type: ignore[no-untyped-call]
                batched.submit(tests, pool, callback)

        return handle_ready_nodes

    with (
        patched(RunTask, "handle_job_queue", batch(RunTask.handle_job_queue)),
        patched(BuildTask, "handle_job_queue", batch(BuildTask.handle_job_queue)),
        patched(GraphRunnableTask, cancel.__name__, cancel_batches),
    ):
        yield


def _can_batch(task: RunTask) -> bool:
    """Return whether tests of the invocation may run together, in statements of our own."""
    flags: Any = get_flags()  # type: ignore[no-untyped-call]
    if flags.FAIL_FAST or flags.SINGLE_THREADED:
        return False
    manifest: Any = task.manifest
    own = get_adapter_package_names(get_adapter(task.config).type())
    materialization = manifest.find_materialization_macro_by_name(
        task.config.project_name, "test", get_adapter(task.config).type()
    )
    return materialization.package_name in own and not any(
        macro.name.split("__")[-1] in MACROS and macro.package_name not in own
        for macro in manifest.macros.values()
    )


def _take_ready(queue: Any) -> list[Any]:
    """Take all nodes from dbt's queue that are ready; wait until there is one."""
    # dbt puts the nodes that a result makes ready into its queue under one lock, which `get` takes.
    nodes = [queue.get()]
    while not queue.inner.empty():
        nodes.append(queue.get())
    return nodes


@dataclass(frozen=True)
class _Compiled:
    """A test that is ready for a statement.

    Attributes:
        runner: dbt's runner of the test.
        compile: when it was compiled, for dbt's timing.
    """

    runner: TestRunner
    compile: TimingInfo

    @property
    def test(self) -> DataTest:
        """The test as a part of a statement."""
        node = self.runner.node
        config = node.config
        return DataTest(
            node.compiled_code, config.fail_calc, config.warn_if, config.error_if, config.limit
        )


@dataclass(frozen=True)
class _Batch:
    """Tests that run together in one of dbt's threads.

    Attributes:
        left: id → dbt's runner, of the tests that have no result yet and run in no other thread.
        pool: dbt's threads.
        callback: takes dbt's result of a test.
    """

    left: dict[str, TestRunner]
    pool: Any
    callback: Callable[[Any], None]

    def finish(self, result: Any) -> None:
        """Hand the result of a test to dbt."""
        self.left.pop(result.node.unique_id, None)
        self.callback(result)


class _Batches:
    """The batches of one invocation of dbt.

    Args:
        task: dbt's task.
        started: called with each test when its batch starts.
        cancelled: is set when the invocation is cancelled; no statement starts after it.
    """

    def __init__(
        self, task: RunTask, started: Callable[[Any], None], cancelled: threading.Event
    ) -> None:
        self._task = task
        self._started = started
        self._cancelled = cancelled
        self._adapter: Any = get_adapter(task.config)
        self._warehouse: Warehouse = self._adapter.type()
        manifest: Any = task.manifest
        self._manifest = manifest
        self._views = {
            str(node.relation_name)
            for node in self._manifest.nodes.values()
            if node.resource_type == "model" and node.config.materialized == "view"
        }

    def accepts(self, node: Any) -> bool:
        """Return whether a node is a test that need not run alone."""
        return (
            isinstance(node, GenericTestNode | SingularTestNode)
            and node.config.materialized == "test"
            and not node.should_store_failures
            and not node.config.get("sql_header")
            and not node.config.meta.get(ALONE)
            # dbt skips it.
            and node.unique_id not in self._task._skipped_children  # noqa: SLF001
        )

    def submit(self, nodes: Sequence[Any], pool: Any, callback: Callable[[Any], None]) -> None:
        """Give tests to dbt's threads in batches."""
        for tests in self._group(nodes):
            runners: dict[str, Any] = {n.unique_id: self._task.get_runner(n) for n in tests}
            batch = _Batch(runners, pool, callback)
            run_one_by_one = partial(self._run_one_by_one, batch)
            pool.apply_async(self._run, (batch,), error_callback=run_one_by_one)

    def _group(self, nodes: Sequence[Any]) -> list[list[Any]]:
        """Divide tests into batches; tests of one relation stay together if they are not many."""
        units: dict[str, list[Any]] = defaultdict(list)
        for node in nodes:
            read = node.depends_on.nodes
            only = read[0] if len(read) == 1 else node.unique_id
            units[getattr(node, "attached_node", None) or only].append(node)
        # On BigQuery, each statement is a job: as few as keep all threads busy.
        per_thread = 1 if self._warehouse == "bigquery" else BATCHES_PER_THREAD
        size = math.ceil(len(nodes) / (per_thread * self._task.config.threads))
        long: list[list[Any]] = []
        short: list[list[Any]] = []
        for unit, tests in units.items():
            parts = [tests[n : n + MAX_TESTS] for n in range(0, len(tests), MAX_TESTS)]
            (long if self._takes_long(unit) else short).extend(parts)
        # A statement runs its parts one after the other, and so long ones start first, each alone.
        return [*long, *_pack(short, min(size, MAX_TESTS))]

    def _takes_long(self, unit: str) -> bool:
        """Return whether tests compute a view on Postgres: those of the view, or an own query."""
        if self._warehouse != "postgres":
            return False
        node = self._manifest.nodes.get(unit)
        if node is None:
            return False
        read = node.depends_on.nodes if node.resource_type == "test" else [unit]
        return any(
            each in self._manifest.nodes and self._manifest.nodes[each].relation_name in self._views
            for each in read
        )

    def _run(self, batch: _Batch) -> None:
        """Compile the tests of a batch and run them together; called in one of dbt's threads."""
        compiled = []
        runners = list(batch.left.values())
        for runner in runners:
            if (test := self._compile(runner)) is None:
                self._run_alone(runner, batch.finish)
            elif len(runners) > 1 and self._shares_nothing(test):
                self._run_apart(runner, batch)
            else:
                compiled.append(test)
        for test in compiled:
            self._started(test.runner.node)
        for part in _split_by_size(compiled):
            self._execute(part, batch.finish)

    def _run_apart(self, runner: TestRunner, batch: _Batch) -> None:
        """Let another thread run a test of a batch."""
        del batch.left[runner.node.unique_id]
        batch.pool.apply_async(self._run_alone, (runner, batch.callback))

    def _run_one_by_one(self, batch: _Batch, error: BaseException) -> None:
        """Run the tests of a batch that have no result yet, because a macro raised.

        It raised what is no error of dbt. dbt's way has an error for its test alone.
        """
        _LOG.warning("A batch of tests failed and its tests run one by one: %r", error)
        for runner in list(batch.left.values()):
            self._run_apart(runner, batch)

    def _shares_nothing(self, test: _Compiled) -> bool:
        """Return whether another thread had better run a test: it computes a view for itself."""
        return (
            isinstance(test.runner.node, SingularTestNode)
            and self._takes_long(test.runner.node.unique_id)
            and not shares_scan(test.test)
        )

    def _compile(self, runner: TestRunner) -> _Compiled | None:
        """Compile a test; return None if it must run alone."""
        node = runner.node
        timing: list[TimingInfo] = []
        try:
            # Macros of the test may query the warehouse.
            with (
                self._adapter.connection_named(node.unique_id, node),
                collect_timing_info("compile", timing.append),
            ):
                runner.node = runner.compile(self._manifest)
        except DbtBaseException:
            return None  # dbt compiles it again and reports the error
        return _Compiled(runner, *timing) if runner.node.compiled_code else None

    def _execute(self, tests: Sequence[_Compiled], finish: Callable[[Any], None]) -> None:
        """Run tests in one statement; split it if it fails."""
        if self._cancelled.is_set():
            return
        if len(tests) == 1:
            self._run_alone(tests[0].runner, finish)
            return
        statement = build_statement([test.test for test in tests], self._warehouse, self._views)
        begin = datetime.now(UTC).replace(tzinfo=None)
        try:
            with self._adapter.connection_named(CONNECTION):
                response, table = self._adapter.execute(statement, auto_begin=True, fetch=True)
        except DbtBaseException as error:
            # dbt's way of one test has the error of that test. What failed for a moment may fail
            # again: each test then has its own result, and the stage retries those that failed.
            size = 1 if classify(error) is FailureClass.TRANSIENT else math.ceil(len(tests) / 2)
            for start in range(0, len(tests), size):
                self._execute(tests[start : start + size], finish)
            return
        share = (datetime.now(UTC).replace(tzinfo=None) - begin) / len(tests)
        responses = _share(response.to_dict(omit_none=True), len(tests))
        for number, verdict in enumerate(read_rows(table.rows, len(tests))):
            test = tests[number]
            if verdict is None:
                self._run_alone(test.runner, finish)
                continue
            data = TestResultData(*verdict, adapter_response=responses[number])
            result = test.runner.build_test_run_result(test.runner.node, data)
            execute = TimingInfo("execute", begin + number * share, begin + (number + 1) * share)
            result.timing = [test.compile, execute]
            result.execution_time = sum(_seconds(timing) for timing in result.timing)
            test.runner.after_execute(result)
            finish(result)

    def _run_alone(self, runner: TestRunner, finish: Callable[[Any], None]) -> None:
        """Run a test as dbt does."""
        if self._cancelled.is_set():
            return
        reset_compilation(runner.node)
        finish(self._task.call_runner(runner))


def _pack(parts: Sequence[list[Any]], size: int) -> list[list[Any]]:
    """Join lists until they have so many elements; a longer list stays as it is."""
    packed: list[list[Any]] = []
    for part in parts:
        if packed and len(packed[-1]) + len(part) <= size:
            packed[-1] = packed[-1] + part
        else:
            packed.append(part)
    return packed


def reset_compilation(node: Any) -> None:
    """Reset a node that may have been compiled, so that dbt compiles it again.

    dbt inserts the CTEs of ephemeral models only once. Without the reset, the next compiled SQL
    would lack them.
    """
    if getattr(node, "extra_ctes_injected", False):
        node.extra_ctes, node.extra_ctes_injected = [], False


def _split_by_size(tests: Sequence[_Compiled]) -> Iterator[list[_Compiled]]:
    """Divide tests so that each statement keeps the limits of characters and relations."""
    part: list[_Compiled] = []
    characters = 0
    relations: set[str] = set()
    for test in tests:
        node = test.runner.node
        read = relations | set(node.depends_on.nodes)
        if part and (
            characters + len(node.compiled_code) > MAX_CHARACTERS or len(read) > MAX_RELATIONS
        ):
            yield part
            part, characters, read = [], 0, set(node.depends_on.nodes)
        part.append(test)
        characters += len(node.compiled_code)
        relations = read
    if part:
        yield part


def _share(response: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Divide the amounts of an `adapter_response` by the tests, so that their sum is the same."""
    shares = [{**response, SHARED_BY: number} for _ in range(number)]
    for key in _AMOUNTS:
        if isinstance(amount := response.get(key), int):
            each, more = divmod(amount, number)
            for index, share in enumerate(shares):
                share[key] = each + (index < more)
    return shares


def _seconds(timing: Any) -> float:
    return float((timing.completed_at - timing.started_at).total_seconds())
