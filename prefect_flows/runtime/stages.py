"""Runs a stage with timeout and retries (exponential backoff, jitter): as Prefect task or function.

Only a `MillraceError` that is `retryable` is retried.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TagsContext
from prefect.states import Cancelled
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_chain,
    wait_none,
    wait_random,
)

from prefect_flows.core.errors import MillraceError, StageTimedOut
from prefect_flows.core.interrupts import time_limit
from prefect_flows.core.logger import Logger
from prefect_flows.core.settings import StagePolicy
from prefect_flows.runtime.cancellation import CancellationHandler

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task

Work = Callable[[Logger], dict[str, Any]]
# Retry delays vary by ±20 %, so that runs that failed together do not retry at the same moment.
JITTER = 0.2
RunStage = Callable[[str, StagePolicy, Work], dict[str, Any]]


def run_as_task(
    name: str, policy: StagePolicy, work: Work, stop: CancellationHandler
) -> dict[str, Any]:
    """Run a stage as a task of the current flow; Prefect retries it.

    Raises:
        KeyboardInterrupt: the run was cancelled; Prefect shows the task as cancelled.
    """

    def run_once(log: Logger) -> dict[str, Any] | State[Any]:
        try:
            with stop.check_before_and_after(), _stage_timeout(name, policy):
                return work(log)
        except KeyboardInterrupt:
            return Cancelled(message="The run was cancelled.")

    # The task gets no tags: for each tag, Prefect requests a concurrency slot from the API, and the
    # task fails while the API is down.
    with stop.check_before_and_after(), TagsContext(current_tags=set()):
        state = _stage.with_options(
            name=name,
            task_run_name=name,
            retries=policy.retries,
            retry_delay_seconds=policy.delays(),
            retry_jitter_factor=JITTER,
            retry_condition_fn=_should_retry,
        )(run_once, return_state=True)
    if state.is_cancelled():
        raise KeyboardInterrupt
    return dict(state.result())


def run_as_function(
    name: str, policy: StagePolicy, work: Work, stop: CancellationHandler
) -> dict[str, Any]:
    """Run a stage without a Prefect API, with the same retries and timeout.

    Raises:
        KeyboardInterrupt: the run was cancelled.
    """
    log = logging.getLogger(f"millrace.{name}")

    def log_retry(attempt: RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        log.warning("%s\nTrying again in %.1f s.", error, attempt.upcoming_sleep)

    waits = [wait_random(d * (1 - JITTER), d * (1 + JITTER)) for d in policy.delays()]
    retrying = Retrying(
        stop=stop_after_attempt(policy.retries + 1),
        wait=wait_chain(*waits) if waits else wait_none(),
        retry=retry_if_exception(_is_retryable),
        before_sleep=log_retry,
        reraise=True,
    )

    def attempt() -> dict[str, Any]:
        with stop.check_before_and_after(), _stage_timeout(name, policy):
            return work(log)

    return retrying(attempt)


def hide_tracebacks_of_expected_errors() -> None:
    """Remove the traceback of a `MillraceError` from Prefect's flow and task logs.

    If Prefect's log line does not name the error, such as the last one under a worker, the error is
    appended.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if _remove_traceback not in logger.filters:
            logger.addFilter(_remove_traceback)


@task(name="stage", cache_policy=NO_CACHE, persist_result=False)
def _stage(work: Callable[[Logger], Any]) -> Any:
    return work(get_run_logger())


@contextmanager
def _stage_timeout(name: str, policy: StagePolicy) -> Iterator[None]:
    """Interrupt the stage like Ctrl-C when its timeout expires.

    After an interrupt, dbt cancels its statements in the warehouse. After Prefect's own timeout
    exception, it would wait for them to end. In another thread than the main thread, which gets no
    signals, Prefect's timeout is used.

    Raises:
        StageTimedOut: the stage did not end within its timeout.
    """
    # All tasks `extract-<source>` share one policy, and all `load-<source>` another.
    is_source_task = name.startswith(("extract-", "load-"))
    setting = (name.partition("-")[0] if is_source_task else name.replace("-", "_")).upper()
    timed_out = StageTimedOut(
        f"{name} did not end within {policy.timeout_seconds:g} s.",
        where=f"task {name}",
        fix="see in the log what took so long, or give it more time with "
        f"MILLRACE_STAGES__{setting}__TIMEOUT_SECONDS",
    )
    with time_limit(policy.timeout_seconds, timed_out):
        yield


def _should_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return _is_retryable(state.data)


def _is_retryable(error: object) -> bool:
    return isinstance(error, MillraceError) and error.retryable


def _remove_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, MillraceError):
        record.exc_info = None
        message, name = record.getMessage(), type(error).__name__
        if name not in message:
            record.msg, record.args = f"{message}: {name}: {error}", ()
    return True
