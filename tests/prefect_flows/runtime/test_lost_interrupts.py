"""A request to stop has effect also where a library's code swallows the interrupt."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dlt.common.runtime import signals

from prefect_flows.core.errors import IngestionError, RunCancelled, StageTimedOut
from prefect_flows.core.profiles import Profile
from prefect_flows.core.settings import StagePolicy
from prefect_flows.ingest.destinations.target import configure_dlt
from prefect_flows.runtime.base import LocalRuntime
from tests.support.project import PATIENCE, REPOSITORY, Project, Scratch

POLICY = StagePolicy(retries=1, retry_delay_seconds=0, timeout_seconds=PATIENCE)


@pytest.fixture(autouse=True)
def default_ctrl_c() -> Iterator[None]:
    """Python's own handler of Ctrl-C: a shell starts background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def swallow() -> None:
    """What the functions do that dbt generates to read its parsed project."""
    with contextlib.suppress(BaseException):
        time.sleep(PATIENCE)


def ctrl_c(_runtime: LocalRuntime) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def sigterm(_runtime: LocalRuntime) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def cancellation(runtime: LocalRuntime) -> None:
    runtime.stop.request("a cancellation in Prefect")


def soon(tell: Callable[[LocalRuntime], None], runtime: LocalRuntime) -> None:
    threading.Timer(0.2, tell, [runtime]).start()


@pytest.mark.parametrize(
    ("tell", "by"),
    [(ctrl_c, "Ctrl-C"), (sigterm, "SIGTERM"), (cancellation, "a cancellation in Prefect")],
)
def test_an_interrupt_that_was_swallowed_is_repeated(tell: Any, by: str) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    runtime = LocalRuntime()
    swallowed = []

    def run() -> None:
        with runtime.stopping():
            soon(tell, runtime)
            for _ in range(2):
                swallow()
                swallowed.append(True)
            time.sleep(PATIENCE)

    with pytest.raises(RunCancelled, match=f"The run was cancelled by {by};"):
        run()

    assert len(swallowed) == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_what_an_interrupt_has_to_clean_up_is_not_interrupted() -> None:
    """As dbt's cancellation of its statements, and the report of the run."""
    runtime = LocalRuntime()
    cleaned = []

    def run() -> None:
        with runtime.stopping():
            try:
                sigterm(runtime)
                time.sleep(PATIENCE)
            finally:
                time.sleep(2)
                cleaned.append(True)

    with pytest.raises(RunCancelled):
        run()

    assert cleaned


def test_no_stage_begins_after_a_request_that_was_swallowed() -> None:
    runtime = LocalRuntime()
    begun = []

    def work(_log: object) -> dict[str, Any]:
        begun.append(True)
        runtime.stop.reason = "SIGTERM"  # and nothing else: its interrupt came to nothing
        return {}

    def run() -> None:
        with runtime.stopping():
            for stage in ("dbt-seed", "dbt-run"):
                runtime.run_stage(stage, POLICY, work)

    with pytest.raises(RunCancelled):
        run()

    assert len(begun) == 1


def test_an_error_caused_by_an_interrupt_is_neither_reported_nor_retried() -> None:
    runtime = LocalRuntime()
    begun = []

    def work(_log: object) -> dict[str, Any]:
        begun.append(True)
        sigterm(runtime)
        try:
            time.sleep(PATIENCE)
        except BaseException as error:
            raise IngestionError("Broken.", where="here", fix="none", retryable=True) from error
        return {}

    with pytest.raises(RunCancelled, match="SIGTERM"), runtime.stopping():
        runtime.run_stage("load-nyc__flights", POLICY, work)

    assert len(begun) == 1


def test_a_timeout_that_was_swallowed_is_repeated() -> None:
    runtime = LocalRuntime()
    policy = StagePolicy(retries=0, retry_delay_seconds=0, timeout_seconds=0.3)

    def work(_log: object) -> dict[str, Any]:
        swallow()
        time.sleep(PATIENCE)
        return {}

    with runtime.stopping():
        with pytest.raises(StageTimedOut):
            runtime.run_stage("dbt-run", policy, work)
        assert runtime.stop.reason is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_dlt_heard_and_never_looked_for_is_handed_back(
    number: signal.Signals,
) -> None:
    profile = Profile("millrace", "dev", {"type": "postgres"})
    runtime = LocalRuntime()
    looked = []

    def run() -> None:
        with runtime.stopping(), configure_dlt(profile):
            with signals.intercepted_signals():
                signal.raise_signal(number)
                looked.append(signals.was_signal_received())
            looked.append(None)

    with pytest.raises(RunCancelled) as caught:
        run()

    assert looked == [True]
    assert ("SIGTERM" in caught.value.what) is (number == signal.SIGTERM)
    assert not signals.was_signal_received()


@pytest.mark.kills
@pytest.mark.parametrize(
    ("place", "how", "options"),
    [
        ("dbt.parser.manifest:ManifestLoader.load", "SIGTERM", ["--no-prefect"]),
        ("dbt.parser.manifest:ManifestLoader.load", "cancelled in Prefect", []),
        pytest.param(
            "dlt.pipeline.pipeline:Pipeline.extract",
            "cancelled in Prefect",
            [],
            marks=pytest.mark.example,
        ),
    ],
)
def test_the_run_ends_as_if_nothing_had_swallowed_its_interrupt(
    project: Project, scratch: Scratch, place: str, how: str, options: list[str]
) -> None:
    source = ["--source", "nyc__flights"] if "dlt" in place else ["--skip", "ingest"]
    process = subprocess.Popen(
        [
            *(sys.executable, str(REPOSITORY / "tests" / "support" / "swallowing.py"), place),
            *("prefect_flows/pipeline.py", "--target", scratch.target, *source, *options),
        ],
        cwd=scratch.folder,
        env=scratch.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line == "swallows the next interrupt\n":
            break
    if how == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        run = project.last_run(scratch.target)
        project.set_state(run, "CANCELLING")
    rest, _ = process.communicate(timeout=PATIENCE)
    said += rest

    assert process.returncode == 130, said
    assert "RunCancelled: The run was cancelled by" in said
    assert "\n  fix:   start it again" in said
    assert "Traceback" not in said
    assert scratch.relations() == set()
    if how != "SIGTERM":
        run = project.last_run(scratch.target)
        assert (run["state"]["type"], run["state"]["name"]) == ("CANCELLED", "Cancelled")
