"""A damaged file is named and set aside; what is right in it, or made from others, is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_flows.core.errors import CorruptFileError
from prefect_flows.core.files import Warn
from prefect_flows.notifications.outbox import Outbox
from prefect_flows.reporting.metrics.exposition import load_facts
from prefect_flows.reporting.run_report.summary import load_freshness
from prefect_flows.state.incidents import load_open_incidents
from prefect_flows.state.journal import Journal
from prefect_flows.state.run_summary import load_history
from prefect_flows.state.runs import (
    Run,
    RunHeader,
    find_failed_run,
    find_interrupted_run,
    get_last_run,
)
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_overview import load_overview
from prefect_flows.state.target_state import TargetState
from tests.support.object_stores import gs_bucket

# Empty after a power failure, cut off by a full disk, of another shape, bytes of something else.
DAMAGES = (b"", b'{"a": [1', b"[[1]]", b'{"a": 1}', b"null", b"\0\xff\xfe" * 30)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gs_bucket(tmp_path_factory.mktemp("gcs")) as url:
        yield url


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StateStore:
    if request.param == "folder":
        return StateStore(str(tmp_path / "state"))
    return StateStore(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def target_state(store: StateStore) -> TargetState:
    return TargetState(store, "dev", Path("/nonexistent"))


READERS: dict[str, tuple[Callable[[StateStore, Warn], Any], Any]] = {
    "timings.json": (lambda store, warn: target_state(store).timings(warn), []),
    "hashes.json": (lambda store, warn: target_state(store).last_good_hashes(warn), None),
    "manifest.json": (lambda store, warn: target_state(store).last_good(warn), None),
    "sources.json": (lambda store, warn: load_freshness(store, "dev", warn), {}),
    "history.json": (lambda store, warn: load_history(store, "dev", warn), None),
    "incidents.json": (lambda store, warn: load_open_incidents(store, "dev", warn), []),
}


@pytest.mark.parametrize("name", READERS)
def test_it_is_set_aside_with_a_warning_and_counts_as_none(store: StateStore, name: str) -> None:
    read, nothing = READERS[name]
    for damage in DAMAGES:
        store.write(f"targets/dev/{name}", damage)
        warnings: list[str] = []
        assert read(store, warnings.append) == nothing, damage
        (warning,) = warnings
        (aside,) = store.names("targets/dev")
        assert warning.endswith(f"where: {store.url}/targets/dev/{aside}")
        assert store.read(f"targets/dev/{aside}") == damage
        assert read(store, warnings.append) == nothing
        assert len(warnings) == 1, "it is said once"
        store.remove("targets/dev")


def test_an_outbox_too(store: StateStore) -> None:
    store.write("targets/dev/outbox.json", b"[]")
    warnings: list[str] = []
    assert Outbox.read(store, "dev", warnings.append) == Outbox()
    assert len(warnings) == 1


def test_a_reader_reports_a_corrupt_file_and_leaves_it_in_place(store: StateStore) -> None:
    for damage in DAMAGES:
        store.write("targets/dev/run_results.json", damage)
        (fault,) = load_facts(store, "dev").faults
        assert "targets/dev/run_results.json" in fault
        for name in ("history.json", "incidents.json"):
            store.write(f"targets/dev/{name}", damage)
            (fault,) = load_overview(store, "dev").faults
            assert f"targets/dev/{name}" in fault
            store.remove(f"targets/dev/{name}")
        assert store.names("targets/dev") == ["run_results.json"]


def begun(store: StateStore, name: str, minutes_ago: int) -> Run:
    started = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    run = Run(store, RunHeader(id=name, target="dev", parameters={}, url=None, started_at=started))
    run.begin(None, [{"node": name, "code": "1", "result": {}}])
    return run


@pytest.mark.parametrize("damage", DAMAGES, ids=range(len(DAMAGES)))
def test_a_run_whose_header_is_damaged_is_not_resumed_nor_one_before_it(
    store: StateStore, damage: bytes
) -> None:
    begun(store, "before", 2).end("cancelled")
    last = begun(store, "last", 1)
    store.write(f"{last.folder}/run.json", damage)
    warnings: list[str] = []
    assert find_interrupted_run(store, "dev", {}, timedelta(hours=1), warnings.append) is None
    assert [f"{last.folder}/run.json" in warning for warning in warnings] == [True]
    with pytest.raises(CorruptFileError, match="run the target"):
        find_failed_run(store, "dev", warnings.append)
    assert [f"{last.folder}/run.json" in fault for fault in load_overview(store, "dev").faults] == [
        True
    ]
    begun(store, "next", 0)
    found = get_last_run(store, "dev")
    assert found is not None
    assert found[1].id == "next", "the target goes on"


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b"1", b'{"node": 1, "code": "1", "result": {}}', b'{"stage": "dbt-run"}',
     b'{"node": "a", "code": "1", "result": []}', b'{"node": "a", \0\0', b"\xff"],
)  # fmt: skip
def test_a_damaged_line_of_a_journal_is_left_out_and_the_others_stay(
    store: StateStore, line: bytes
) -> None:
    run = begun(store, "killed", 1)
    run.journal.add([])
    # In a bucket, each addition is an object of its own.
    store.append(f"{run.folder}/journal.jsonl", line + b"\n", 2)
    store.append(f"{run.folder}/journal.jsonl", b'{"stage": "dbt-run", "record": {}}\n', 3)
    warnings: list[str] = []
    entries = Journal.read(store, run.folder, warnings.append)
    assert [entry.get("node") or entry["stage"] for entry in entries] == ["killed", "dbt-run"]
    (warning,) = warnings
    assert "/journal" in warning
    assert ", line " in warning
