"""Captures the exceptions of failed dbt nodes and of failed microbatch batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbt.materializations.incremental.microbatch import MicrobatchBuilder
from dbt.task.base import BaseRunner
from dbt.task.run import MicrobatchBatchRunner

from prefect_flows.core.failure_class import classify
from prefect_flows.transform.monkeypatch import patched
from prefect_flows.transform.results import FailedBatch

# Called with the id of a node, its exception, and the batch if only a batch failed.
OnError = Callable[[str, Exception, FailedBatch | None], None]


@contextmanager
def capture_errors(on_error: OnError) -> Iterator[None]:
    """Call `on_error` with the exception of each failed node or batch while the context is open.

    dbt's results have only the text of an exception, and those of a batch not even that. dbt's node
    runners pass every exception to `handle_exception`. The runner of a batch catches exceptions of
    statements itself, and builds the result of the failed batch while it handles them. This
    context wraps both methods.
    """
    handle = BaseRunner.handle_exception
    build = MicrobatchBatchRunner._build_failed_run_batch_result  # noqa: SLF001 # dbt has no public hook

    def handle_and_report(self: BaseRunner[Any, Any], e: Exception, ctx: Any) -> str:
        batch = _failed_batch(self, e) if isinstance(self, MicrobatchBatchRunner) else None
        on_error(self.node.unique_id, e, batch)
        return str(handle(self, e, ctx))

    def build_and_report(self: MicrobatchBatchRunner, *args: Any, **kwargs: Any) -> Any:
        # There is no exception if dbt skips the remaining batches of a cancelled run.
        error = sys.exception()
        if isinstance(error, Exception):
            on_error(self.node.unique_id, error, _failed_batch(self, error))
        return build(self, *args, **kwargs)

    with (
        patched(BaseRunner, handle.__name__, handle_and_report),
        patched(MicrobatchBatchRunner, build.__name__, build_and_report),
    ):
        yield


def _failed_batch(runner: MicrobatchBatchRunner, error: Exception) -> FailedBatch:
    node = runner.node
    begin, end = runner.batches[runner.batch_idx]
    return FailedBatch(
        unique_id=node.unique_id,
        name=MicrobatchBuilder.format_batch_start(begin, node.config.batch_size),
        begin=begin,
        end=end,
        cause=classify(error),
        message=str(error) or type(error).__name__,
        compiled_path=node.compiled_path,
        compiled_code=node.compiled_code,
    )
