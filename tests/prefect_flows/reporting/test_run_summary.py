"""What is kept of each run: what the report knows, in short, and what was known before."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from prefect_flows.core.errors import CorruptFileError
from prefect_flows.core.settings import Settings
from prefect_flows.reporting.metrics.exposition import build_registry, load_all_facts
from prefect_flows.state import run_summary
from prefect_flows.state.run_summary import RunSummary, TargetHistory, TestCounts, load_history
from prefect_flows.state.store import StateStore
from tests.support.reporting.made_up_runs import keep_made_up_run, made_up_report, sources_file
from tests.support.reporting.synthetic import START


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(str(tmp_path))


def kept(store: StateStore) -> TargetHistory:
    found = load_history(store, "dev")
    assert found is not None
    return found


def test_a_run_that_passed_is_summed_up(store: StateStore) -> None:
    run = keep_made_up_run(store, made_up_report(), settings=Settings(price_per_tib=6))
    last = kept(store).last
    assert store.read(f"{run.folder}/summary.json") == last.model_dump_json().encode()
    assert (last.outcome, last.first_cause, last.has_report) == ("passed", None, True)
    assert last.tests == TestCounts(passed=6)
    assert last.statuses == {"pass": 6, "success": 5}
    assert (last.bytes, last.bytes_billed, last.slot_seconds) == (2**30, 2**39, 1.5)
    assert last.cost == 3.0, "half a TiB at 6"
    assert last.rows == 1_234_567 + 2 * 50_000
    assert last.marts["fct_flights"].rows == 336_776
    assert last.marts["fct_flights"].built_at is not None
    assert last.marts["dim_planes"].built_at is None, "it was counted, and not built"
    assert last.marts["agg_never_built"].rows is None
    assert last.sources["raw.s0"].status == "pass"
    assert last.sources["raw.s0"].age_seconds == 3600.5
    assert kept(store).last_good == last.line()


def test_of_what_was_resumed_nothing_is_billed_twice(store: StateStore) -> None:
    report = made_up_report()
    resumed = [replace(node, resumed=True) for node in report.nodes]
    keep_made_up_run(store, replace(report, nodes=resumed))
    assert kept(store).last.bytes_billed is None


def test_a_run_that_failed_leaves_the_last_good_one_and_what_was_known(store: StateStore) -> None:
    keep_made_up_run(store, made_up_report())
    report = made_up_report(failures=True, marts={})
    no_mart = [node for node in report.nodes if node.name != "fct_flights"]
    keep_made_up_run(store, replace(report, nodes=no_mart), number=1)
    found = kept(store)
    assert found.last.outcome == "failed"
    assert found.last.first_cause is not None
    assert found.last.first_cause.startswith("model int_crm__entity_2 (code): Database Error")
    assert found.last.tests.skipped + found.last.tests.failed > 0
    assert found.last_good is not None
    assert found.last_good.run_id == "run-0"
    assert found.last.marts["fct_flights"].rows == 336_776
    built_at = found.last.marts["fct_flights"].built_at
    assert built_at is not None
    assert built_at.date() == START.date()


def test_a_run_of_a_part_leaves_the_last_good_one(store: StateStore) -> None:
    keep_made_up_run(store, made_up_report(), whole=False)
    assert kept(store).last_good is None, "no run of the whole project has passed"
    keep_made_up_run(store, made_up_report(), number=1)
    keep_made_up_run(store, made_up_report(failures=True), number=2)
    keep_made_up_run(store, made_up_report(), number=3, whole=False)
    found = kept(store)
    assert (found.last.run_id, found.last.outcome) == ("run-3", "passed")
    assert found.last_good is not None
    assert found.last_good.run_id == "run-1"
    metrics = build_registry(load_all_facts(store))
    good = metrics.get_sample_value(
        "millrace_run_last_success_timestamp_seconds", {"target": "dev"}
    )
    assert good == found.last_good.ended_at.timestamp()


def test_a_run_that_never_parsed_keeps_what_was_known(store: StateStore) -> None:
    keep_made_up_run(store, made_up_report())
    failure = "Model a is wrong.\n  where: dbt/models\n  fix:   correct it " + "x" * 999
    keep_made_up_run(store, None, number=1, failure=failure)
    found = kept(store)
    assert found.last.first_cause == "Model a is wrong."
    assert found.last.has_report, "the page of a refused run holds its cause"
    assert (
        found.last.marts
        == RunSummary.model_validate_json(
            store.read(f"runs/dev/{found.runs[0].folder}/summary.json") or b""
        ).marts
    )
    assert [run.outcome for run in found.runs] == ["passed", "failed"]


def test_sources_are_as_the_last_look_saw_each(store: StateStore) -> None:
    report = made_up_report(100)
    store.write("targets/dev/sources.json", sources_file(START, s0="pass", s1="warn"))
    keep_made_up_run(store, report)
    later = START + timedelta(days=1)
    store.write("targets/dev/sources.json", sources_file(later, s1="runtime error"))
    keep_made_up_run(store, report, number=1)
    sources = kept(store).last.sources
    assert sources["raw.s0"].checked_at == START
    assert sources["raw.s1"].status == "runtime error"
    assert sources["raw.s1"].max_loaded_at is None
    assert sources["raw.s2"].status is None, "nobody looked at it"
    assert len(sources) == 4, "every source of the project, whether it was looked at or not"


def test_what_left_the_project_leaves_the_summary(store: StateStore) -> None:
    report = made_up_report()
    keep_made_up_run(store, report)
    lineage = {i: node for i, node in report.lineage.items() if "planes" not in i}
    keep_made_up_run(store, replace(report, lineage=lineage), number=1)
    assert "dim_planes" not in kept(store).last.marts


def test_a_history_has_an_end(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_summary, "MAX_HISTORY_RUNS", 3)
    for number in range(5):
        keep_made_up_run(store, None, number=number, ended="passed" if number == 0 else "failed")
    found = kept(store)
    assert [run.run_id for run in found.runs] == ["run-2", "run-3", "run-4"]
    assert found.last_good is not None
    assert found.last_good.run_id == "run-0", "however long ago"


def test_a_history_that_is_gone_is_made_again(store: StateStore, tmp_path: Path) -> None:
    for number in range(3):
        keep_made_up_run(store, made_up_report(), number=number)
    before = kept(store)
    (tmp_path / "targets/dev/history.json").unlink()
    assert kept(store) == before
    keep_made_up_run(store, made_up_report(), number=3)
    assert [run.run_id for run in kept(store).runs] == ["run-0", "run-1", "run-2", "run-3"]


def test_a_damaged_history_is_set_aside_and_made_again(
    store: StateStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep_made_up_run(store, made_up_report())
    file = tmp_path / "targets/dev/history.json"
    file.write_text(file.read_text()[:100])
    with caplog.at_level(logging.WARNING):
        run = keep_made_up_run(store, made_up_report(), number=1)
    (aside,) = file.parent.glob("history.json.damaged-*")
    assert "A file is corrupt: Invalid JSON" in caplog.text
    assert str(aside) in caplog.text
    assert store.read(f"{run.folder}/summary.json") is not None
    assert [run.run_id for run in kept(store).runs] == ["run-0", "run-1"], "nothing was lost"
    file.write_text("{}")
    with pytest.raises(CorruptFileError, match="target: this field is required"):
        load_history(store, "dev")


def test_a_store_that_cannot_be_written_fails_no_run(
    store: StateStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = keep_made_up_run(store, made_up_report())
    (tmp_path / run.folder / "summary.json").unlink()
    (tmp_path / run.folder / "summary.json").mkdir()
    keep_made_up_run(store, made_up_report())
    assert "The run's summary could not be saved." in caplog.text
