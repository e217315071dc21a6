"""The timeout of a stage, which has to be heard wherever the process was started."""

from __future__ import annotations

import signal
import threading
import time
from itertools import pairwise

import pytest

from prefect_flows.errors import StageTimedOut
from prefect_flows.settings import StagePolicy
from prefect_flows.stages import as_function

POLICY = StagePolicy(retries=0, retry_delay_seconds=0, timeout_seconds=0.3)


def too_long(_log: object) -> dict:
    for _ in range(100):
        time.sleep(0.1)
    return {}


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
def test_it_stops_the_stage_and_leaves_the_handler_as_it_was(handler) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        started = time.monotonic()
        with pytest.raises(StageTimedOut, match=r"dbt-run did not end within 0\.3 s"):
            as_function("dbt-run", POLICY, too_long)
        assert time.monotonic() - started < 8
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_stops_the_stage_in_another_thread_too() -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            as_function("load-nyc__flights", POLICY, too_long)
        except StageTimedOut as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert "MILLRACE_STAGES__LOAD__TIMEOUT_SECONDS" in str(caught[0])


def test_a_stage_in_time_is_not_disturbed() -> None:
    assert as_function("dbt-run", POLICY, lambda _: {"done": True}) == {"done": True}
    time.sleep(0.5)


def test_each_retry_comes_later_than_the_one_before_and_not_on_the_dot() -> None:
    """Doubling, a fifth sooner or later; and no delay is longer than ten minutes."""
    patient = StagePolicy(retries=8, retry_delay_seconds=30, timeout_seconds=60)
    assert patient.delays() == [30, 60, 120, 240, 480, 600, 600, 600]

    policy = StagePolicy(retries=3, retry_delay_seconds=0.2, timeout_seconds=60)
    begun: list[float] = []

    def fails(_log: object) -> dict:
        begun.append(time.monotonic())
        raise StageTimedOut("Made up.", where="here", mend="none", retryable=True)

    with pytest.raises(StageTimedOut):
        as_function("dbt-run", policy, fails)
    waited = [later - earlier for earlier, later in pairwise(begun)]
    for delay, seconds in zip(policy.delays(), waited, strict=True):
        assert 0.8 * delay <= seconds < 1.2 * delay + 0.5
    assert waited != policy.delays()


def test_an_error_that_cannot_pass_is_not_tried_again() -> None:
    policy = StagePolicy(retries=3, retry_delay_seconds=0, timeout_seconds=60)
    tried = []

    def fails(_log: object) -> dict:
        tried.append(1)
        raise StageTimedOut("Made up.", where="here", mend="none")

    with pytest.raises(StageTimedOut):
        as_function("dbt-run", policy, fails)
    assert len(tried) == 1
