"""The errors with which dbt ends a node, or a batch of a microbatch model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbt.materializations.incremental.microbatch import MicrobatchBuilder
from dbt.task.base import BaseRunner
from dbt.task.run import MicrobatchBatchRunner

from prefect_flows.core.failure_class import classify
from prefect_flows.transform.monkeypatch import replaced
from prefect_flows.transform.results import FailedBatch

# Is told a node's id, the error that ended it, and the batch, where only that ended.
OnError = Callable[[str, Exception, FailedBatch | None], None]


@contextmanager
def errors_seen(on_error: OnError) -> Iterator[None]:
    """Tell the error of each node, and of each batch, that dbt ends with one.

    dbt's results keep only the error's text, and of a batch not even that. Its runners hand every
    error of a node to one method, `handle_exception`. The runner of a batch catches what its
    statements raise by itself, and builds the result of a failed batch while it handles the error.
    Both methods are wrapped here for the time of an invocation.
    """
    handle = BaseRunner.handle_exception
    build = MicrobatchBatchRunner._build_failed_run_batch_result  # noqa: SLF001 # as it is named

    def telling(self: BaseRunner[Any, Any], e: Exception, ctx: Any) -> str:
        batch = _failed_batch(self, e) if isinstance(self, MicrobatchBatchRunner) else None
        on_error(self.node.unique_id, e, batch)
        return str(handle(self, e, ctx))

    def telling_of_batch(self: MicrobatchBatchRunner, *args: Any, **kwargs: Any) -> Any:
        # No error is handled where dbt only gives up what is left of a run that stops.
        error = sys.exception()
        if isinstance(error, Exception):
            on_error(self.node.unique_id, error, _failed_batch(self, error))
        return build(self, *args, **kwargs)

    with (
        replaced(BaseRunner, handle.__name__, telling),
        replaced(MicrobatchBatchRunner, build.__name__, telling_of_batch),
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
