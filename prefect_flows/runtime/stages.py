"""How a stage is run, with its retries and its timeout: as a Prefect task, or as a function.

Either way only an error that says it is `retryable` is tried again.
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
from prefect_flows.core.interrupts import bounded
from prefect_flows.core.logger import Logger
from prefect_flows.core.settings import StagePolicy
from prefect_flows.runtime.cancellation import CancellationHandler

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task

Work = Callable[[Logger], dict[str, Any]]
# Part of a retry's delay by which it comes sooner or later, so that runs that a warehouse turned
# away together do not come back together.
JITTER = 0.2
RunStage = Callable[[str, StagePolicy, Work], dict[str, Any]]


def as_task(
    name: str, policy: StagePolicy, work: Work, stop: CancellationHandler
) -> dict[str, Any]:
    """Run a stage as a task of the flow that calls it; Prefect retries it.

    Raises:
        KeyboardInterrupt: the run was told to stop; the task is shown as cancelled.
    """

    def timed(log: Logger) -> dict[str, Any] | State[Any]:
        try:
            with stop.checked(), _stopping_timeout(name, policy):
                return work(log)
        except KeyboardInterrupt:
            return Cancelled(message="The run was told to stop.")

    # A task has no tags: for each, Prefect asks the API for a slot, and fails the task while the
    # API is away.
    with stop.checked(), TagsContext(current_tags=set()):
        state = _stage.with_options(
            name=name,
            task_run_name=name,
            retries=policy.retries,
            retry_delay_seconds=policy.delays(),
            retry_jitter_factor=JITTER,
            retry_condition_fn=_may_pass_on_retry,
        )(timed, return_state=True)
    if state.is_cancelled():
        raise KeyboardInterrupt
    return dict(state.result())


def as_function(
    name: str, policy: StagePolicy, work: Work, stop: CancellationHandler
) -> dict[str, Any]:
    """Run a stage without a Prefect API, with the same retries and timeout.

    Raises:
        KeyboardInterrupt: the run was told to stop.
    """
    log = logging.getLogger(f"millrace.{name}")

    def say(attempt: RetryCallState) -> None:
        error = attempt.outcome.exception() if attempt.outcome else None
        log.warning("%s\nTrying again in %.1f s.", error, attempt.upcoming_sleep)

    waits = [wait_random(d * (1 - JITTER), d * (1 + JITTER)) for d in policy.delays()]
    retrying = Retrying(
        stop=stop_after_attempt(policy.retries + 1),
        wait=wait_chain(*waits) if waits else wait_none(),
        retry=retry_if_exception(_is_retryable),
        before_sleep=say,
        reraise=True,
    )

    def attempt() -> dict[str, Any]:
        with stop.checked(), _stopping_timeout(name, policy):
            return work(log)

    return retrying(attempt)


def say_expected_errors_without_stack() -> None:
    """Keep the stack of an error that names its cause, place and remedy out of Prefect's logs.

    Where Prefect's own line names no error, as its last one under a worker, the error follows.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if _without_stack not in logger.filters:
            logger.addFilter(_without_stack)


@task(name="stage", cache_policy=NO_CACHE, persist_result=False)
def _stage(work: Callable[[Logger], Any]) -> Any:
    return work(get_run_logger())


@contextmanager
def _stopping_timeout(name: str, policy: StagePolicy) -> Iterator[None]:
    """Stop the stage when its time is up, as Ctrl-C does.

    dbt answers an interrupt by cancelling its statements in the warehouse. What Prefect's own
    timeout raises it does not know, and would wait for the statements to end. A signal reaches the
    main thread only; in another one Prefect's timeout has to serve. An interrupt that something
    swallows is repeated.

    Raises:
        StageTimedOut: the stage did not end within its timeout.
    """
    # The tasks of a source are `extract-<source>` and `load-<source>`; all share two policies.
    of_source = name.startswith(("extract-", "load-"))
    setting = (name.partition("-")[0] if of_source else name.replace("-", "_")).upper()
    timed_out = StageTimedOut(
        f"{name} did not end within {policy.timeout_seconds:g} s.",
        where=f"task {name}",
        fix="see in the log what took so long, or give it more time with "
        f"MILLRACE_STAGES__{setting}__TIMEOUT_SECONDS",
    )
    with bounded(policy.timeout_seconds, timed_out):
        yield


def _may_pass_on_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return _is_retryable(state.data)


def _is_retryable(error: object) -> bool:
    return isinstance(error, MillraceError) and error.retryable


def _without_stack(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, MillraceError):
        record.exc_info = None
        said, name = record.getMessage(), type(error).__name__
        if name not in said:
            record.msg, record.args = f"{said}: {name}: {error}", ()
    return True
