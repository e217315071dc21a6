"""Which run is gone on with, and which are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prefect_flows.state.runs import (
    Run,
    RunHeader,
    RunStatus,
    find_failed_run,
    find_interrupted_run,
    get_last_run,
    prune,
)
from prefect_flows.state.store import StateStore

HOURS = timedelta(hours=6)


def unexpected(warning: str) -> None:
    raise AssertionError(warning)


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(str(tmp_path))


def entry(name: str) -> dict[str, object]:
    return {"node": name, "code": "1", "result": {}}


def begun(
    store: StateStore, name: str, ended: RunStatus | None = None, hours_ago: float = 0.0
) -> Run:
    # Now, and not when the module was read: an hour may lie between.
    started = datetime.now(UTC) - timedelta(hours=hours_ago)
    header = RunHeader(
        id=name, target="dev", parameters={"select": []}, url=None, started_at=started
    )
    run = Run(store, header)
    run.begin(None, [])
    run.journal.add([entry(name)])
    if ended is not None:
        run.end(ended)
    return run


def resumed(store: StateStore, parameters: dict[str, object] | None = None) -> str | None:
    found = find_interrupted_run(store, "dev", parameters or {"select": []}, HOURS, unexpected)
    return None if found is None else found.header.id


@pytest.mark.parametrize("ended", [None, "cancelled", "timed out"])
def test_the_last_run_if_it_was_killed_or_stopped(
    store: StateStore, ended: RunStatus | None
) -> None:
    begun(store, "before", "passed", hours_ago=2)
    begun(store, "last", ended, hours_ago=1)
    assert resumed(store) == "last"


@pytest.mark.parametrize("ended", ["passed", "failed", "resumed"])
def test_none_that_ended_by_itself(store: StateStore, ended: RunStatus) -> None:
    begun(store, "killed", hours_ago=2)
    begun(store, "last", ended, hours_ago=1)
    assert resumed(store) is None


def test_what_failed_is_in_the_last_run_unless_that_passed(store: StateStore) -> None:
    assert find_failed_run(store, "dev", unexpected) is None, "there is no run"
    begun(store, "failed", "failed", hours_ago=30)
    found = find_failed_run(store, "dev", unexpected)
    assert found is not None
    assert (found.header.id, list(found.entries)) == ("failed", [entry("failed")])
    begun(store, "killed", hours_ago=2)
    found = find_failed_run(store, "dev", unexpected)
    assert found is not None
    assert found.header.id == "killed"
    begun(store, "last", "passed", hours_ago=1)
    assert find_failed_run(store, "dev", unexpected) is None, "what failed before it is over"


def test_a_run_knows_when_the_first_of_those_began_that_it_goes_on_from(store: StateStore) -> None:
    first = begun(store, "first", "failed", hours_ago=30)
    for name in ("second", "third"):
        header = RunHeader(
            id=name, target="dev", parameters={}, url=None, started_at=datetime.now(UTC)
        )
        run = Run(store, header)
        run.begin(find_failed_run(store, "dev", unexpected), [])
        run.end("failed")
        found = get_last_run(store, "dev")
        assert found is not None
        assert (found[1].id, found[1].begun_at) == (name, first.header.started_at)


def test_none_of_other_parameters_and_none_that_is_too_old(store: StateStore) -> None:
    begun(store, "last", hours_ago=5)
    assert resumed(store, {"select": ["a"]}) is None
    begun(store, "old", hours_ago=7)
    assert resumed(store) == "last"
    assert (
        find_interrupted_run(store, "dev", {"select": []}, timedelta(hours=4), unexpected) is None
    )


def test_a_run_that_was_killed_before_it_was_known_is_none(store: StateStore) -> None:
    begun(store, "killed", hours_ago=1)
    header = RunHeader(
        id="x", target="dev", parameters={"select": []}, url=None, started_at=datetime.now(UTC)
    )
    Run(store, header).journal.begin([entry("killed")])
    assert resumed(store) == "killed"


def test_going_on_leaves_one_run_to_go_on_from(store: StateStore) -> None:
    begun(store, "killed", hours_ago=1)
    found = find_interrupted_run(store, "dev", {"select": []}, HOURS, unexpected)
    assert found is not None
    header = RunHeader(
        id="next", target="dev", parameters={"select": []}, url=None, started_at=datetime.now(UTC)
    )
    Run(store, header).begin(found, found.entries)

    again = find_interrupted_run(store, "dev", {"select": []}, HOURS, unexpected)
    assert again is not None
    assert again.header.id == "next"
    assert again.entries == [entry("killed")]


def test_pruned_by_count_and_by_age_and_never_the_last(store: StateStore) -> None:
    for number in range(8):
        begun(store, f"run-{number}", "passed", hours_ago=24.0 * (8 - number))
    prune(store, "dev", keep=5, keep_days=3.5)
    assert [name.rpartition("-")[2] for name in store.names("runs/dev")] == ["5", "6", "7"]
    prune(store, "dev", keep=2, keep_days=30)
    assert [name.rpartition("-")[2] for name in store.names("runs/dev")] == ["6", "7"]
    prune(store, "dev", keep=1, keep_days=0)
    last = get_last_run(store, "dev")
    assert last is not None
    assert last[1].id == "run-7"
