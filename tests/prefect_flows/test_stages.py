"""The timeout of a stage, which has to be heard wherever the process was started."""

from __future__ import annotations

import signal
import threading
import time

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
        assert time.monotonic() - started < 3
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_stops_the_stage_in_another_thread_too() -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            as_function("ingest-nyc__flights", POLICY, too_long)
        except StageTimedOut as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert "MILLRACE_STAGES__INGEST__TIMEOUT_SECONDS" in str(caught[0])


def test_a_stage_in_time_is_not_disturbed() -> None:
    assert as_function("dbt-run", POLICY, lambda _: {"done": True}) == {"done": True}
    time.sleep(0.5)
