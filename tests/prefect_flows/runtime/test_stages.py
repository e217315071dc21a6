"""The timeout of a stage, heard wherever the process was started; an expected error in the log."""

from __future__ import annotations

import logging
import signal
import threading
import time
from itertools import pairwise

import pytest

from prefect_flows.core.errors import StageFailed, StageTimedOut
from prefect_flows.core.settings import StagePolicy
from prefect_flows.runtime.cancellation import CancellationHandler
from prefect_flows.runtime.stages import hide_tracebacks_of_expected_errors, run_as_function

POLICY = StagePolicy(retries=0, retry_delay_seconds=0, timeout_seconds=0.3)


def too_long(_log: object) -> dict:
    for _ in range(600):
        time.sleep(0.1)
    return {}


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_it_stops_the_stage_and_leaves_the_handler_as_it_was(handler) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        started = time.monotonic()
        with pytest.raises(StageTimedOut, match=r"dbt-run did not end within 0\.3 s"):
            run_as_function("dbt-run", POLICY, too_long, CancellationHandler())
        assert time.monotonic() - started < 30
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_stops_the_stage_in_another_thread_too() -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            run_as_function("load-nyc__flights", POLICY, too_long, CancellationHandler())
        except StageTimedOut as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "MILLRACE_STAGES__LOAD__TIMEOUT_SECONDS" in str(caught[0])


def test_a_stage_in_time_is_not_disturbed() -> None:
    assert run_as_function("dbt-run", POLICY, lambda _: {"done": True}, CancellationHandler()) == {
        "done": True
    }
    time.sleep(0.5)


def test_each_retry_comes_later_than_the_one_before_and_not_on_the_dot() -> None:
    """Doubling, a fifth sooner or later; and no delay is longer than ten minutes."""
    patient = StagePolicy(retries=8, retry_delay_seconds=30, timeout_seconds=60)
    assert patient.delays() == [30, 60, 120, 240, 480, 600, 600, 600]

    policy = StagePolicy(retries=3, retry_delay_seconds=0.2, timeout_seconds=60)
    begun: list[float] = []

    def fails(_log: object) -> dict:
        begun.append(time.monotonic())
        raise StageTimedOut("Made up.", where="here", fix="none", retryable=True)

    with pytest.raises(StageTimedOut):
        run_as_function("dbt-run", policy, fails, CancellationHandler())
    waited = [later - earlier for earlier, later in pairwise(begun)]
    for delay, seconds in zip(policy.delays(), waited, strict=True):
        assert 0.8 * delay <= seconds < 1.2 * delay + 0.5
    assert waited != policy.delays()


def test_an_error_that_cannot_pass_is_not_tried_again() -> None:
    policy = StagePolicy(retries=3, retry_delay_seconds=0, timeout_seconds=60)
    tried = []

    def fails(_log: object) -> dict:
        tried.append(1)
        raise StageTimedOut("Made up.", where="here", fix="none")

    with pytest.raises(StageTimedOut):
        run_as_function("dbt-run", policy, fails, CancellationHandler())
    assert len(tried) == 1


@pytest.mark.parametrize(
    "said", ["Engine execution exited with unexpected exception", "Encountered StageFailed(%r)"]
)
def test_prefects_lines_name_an_expected_error_once_and_without_its_stack(said: str) -> None:
    hide_tracebacks_of_expected_errors()
    error = StageFailed("1 failed.", where="dbt/a", fix="fix it", record={}, retryable=False)
    error.rerun = "run it --failed"
    logger = logging.getLogger("prefect.flow_runs")
    arguments = (error.what,) if "%r" in said else ()
    record = logger.makeRecord(
        logger.name, logging.ERROR, __file__, 1, said, arguments, (type(error), error, None)
    )

    assert logger.filter(record)

    text = logging.Formatter().format(record)
    assert text.count("StageFailed") == text.count("1 failed.") == 1
    assert "Traceback" not in text
    if not arguments:
        assert text.endswith("where: dbt/a\n  fix:   fix it\n  rerun: run it --failed")
