"""What is new, what is known, what is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prefect_flows.core.errors import CorruptFileError
from prefect_flows.notifications.outbox import Outbox
from prefect_flows.state.incidents import (
    Incident,
    compare_incidents,
    load_open_incidents,
    save_incidents,
)
from prefect_flows.state.store import StateStore

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def incident(i: str, hours: int = 0, runs: int = 1) -> Incident:
    at = NOW + timedelta(hours=hours)
    return Incident(id=i, name=i, cause="broken", first_at=at, last_at=at, runs=runs)


def test_what_is_seen_again_is_counted_and_keeps_its_beginning() -> None:
    judged = compare_incidents(
        [incident("a", runs=3)], [incident("a", hours=2), incident("b", hours=2)], set()
    )
    assert [each.id for each in judged.new] == ["b"]
    (again,) = judged.ongoing
    assert (again.first_at, again.last_at, again.runs) == (NOW, NOW + timedelta(hours=2), 4)


def test_what_a_run_did_not_look_at_stays_open() -> None:
    before = [incident("good"), incident("not looked at"), incident("bad")]
    judged = compare_incidents(before, [incident("bad")], {"good"})
    assert [each.id for each in judged.resolved] == ["good"]
    assert {each.id for each in judged.open} == {"not looked at", "bad"}
    assert judged.new == []


def test_what_is_kept_comes_back_oldest_first(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    assert load_open_incidents(store, "dev") == []
    save_incidents(store, "dev", [incident("late", hours=1), incident("early")])
    assert load_open_incidents(store, "dev") == [incident("early"), incident("late", hours=1)]


def test_a_file_of_another_shape_is_named_with_what_fixes_it(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    for name in ("incidents.json", "outbox.json"):
        store.write(f"targets/dev/{name}", b'{"waiting": [{"notice": 1}]}')
    for read, name in ((load_open_incidents, "incidents.json"), (Outbox.read, "outbox.json")):
        with pytest.raises(CorruptFileError) as damaged:
            read(store, "dev")
        assert damaged.value.where.endswith(f"targets/dev/{name}")
        warnings: list[str] = []
        read(store, "dev", warnings.append)
        (warning,) = warnings
        assert f"targets/dev/{name}.damaged-" in warning
        read(store, "dev")
