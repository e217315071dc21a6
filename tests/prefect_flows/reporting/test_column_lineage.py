"""Reports show where a tested column comes from, as far as the last check still tells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from infrastructure.ci.check_models.check import check_project
from prefect_flows.reporting.column_lineage import (
    FILE,
    MAX_LINES,
    add_columns,
    column_lineage,
    dump_column_lineage,
)
from prefect_flows.reporting.run_report.artifact import cards_markdown
from prefect_flows.reporting.run_report.build import build_report
from prefect_flows.reporting.run_report.terminal import failure_text
from prefect_flows.transform.run_report import FailureCard, RunReport
from tests.support.project import Scratch
from tests.support.reporting.synthetic import facts

FLIGHTS, STAGING, RAW = "model.p.fct_flights", "model.p.stg_flights", "source.p.raw.flights"
LINEAGE = {
    STAGING: {"delay": [(RAW, "arr_delay")], "id": [(RAW, "id")]},
    FLIGHTS: {"is_late": [(STAGING, "delay"), ("seed.p.limits", "late")]},
}
CHECKSUMS = {FLIGHTS: "one", STAGING: "two", "test.p.t": ""}


@pytest.fixture
def local_dir(tmp_path: Path) -> Path:
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text(dump_column_lineage(LINEAGE, CHECKSUMS))
    return tmp_path


def test_the_file_of_a_check_is_read(local_dir: Path) -> None:
    assert column_lineage(local_dir, CHECKSUMS, pytest.fail) == LINEAGE


def test_a_node_whose_file_has_changed_is_left_out(local_dir: Path) -> None:
    changed = CHECKSUMS | {STAGING: "three"}
    assert column_lineage(local_dir, changed, pytest.fail) == {FLIGHTS: LINEAGE[FLIGHTS]}


def test_a_machine_without_a_check_shows_no_columns(tmp_path: Path) -> None:
    assert column_lineage(tmp_path, CHECKSUMS, pytest.fail) == {}


def test_a_file_that_cannot_be_read_is_reported(local_dir: Path) -> None:
    said: list[str] = []
    (local_dir / FILE).write_text("[]")
    assert column_lineage(local_dir, CHECKSUMS, said.append) == {}
    assert said[0].startswith("A file is corrupt: ")
    (local_dir / FILE).mkdir()  # the corrupt one was renamed
    assert column_lineage(local_dir, CHECKSUMS, said.append) == {}
    assert said[1].startswith("The report has no columns: Is a directory.\n  where: ")


def report_of_a_test(column: str | None) -> tuple[RunReport, FailureCard]:
    """A report in which a test of a column of fct_flights failed."""
    report = build_report(facts(1000))
    card = next(card for card in report.cards if card.resource_type == "test")
    about = replace(report.lineage[card.unique_id], attached_to=FLIGHTS, test_column=column)
    lineage = report.lineage | {card.unique_id: about}
    return replace(report, cards=[card], lineage=lineage), card


def test_the_card_of_a_failed_test_shows_where_its_column_comes_from() -> None:
    report = add_columns(report_of_a_test('"IS_LATE"')[0], LINEAGE)
    assert report.columns == LINEAGE
    lines = ["stg_flights.delay", "  raw.flights.arr_delay (source)", "limits.late (seed)"]
    assert report.cards[0].origins == lines
    text = failure_text({"target": "dev"}, report, "report.html")
    shown = "".join(f"      {line}\n" for line in lines)
    assert f"    fct_flights.is_late comes from:\n{shown}    reproduce: " in text
    markdown = cards_markdown(report)
    assert "fct\\_flights.is\\_late comes from:\n\n```text\n" + "\n".join(lines) in markdown


@pytest.mark.parametrize("column", [None, "unknown"])
def test_the_card_of_another_failure_is_as_before(column: str | None) -> None:
    report, card = report_of_a_test(column)
    assert add_columns(report, LINEAGE).cards == [card]
    assert "comes from:" not in failure_text({"target": "dev"}, report, "report.html")


def test_a_card_has_a_maximum_size() -> None:
    many = {FLIGHTS: {"is_late": [(RAW, f"column_{n}") for n in range(MAX_LINES + 5)]}}
    (card,) = add_columns(report_of_a_test("is_late")[0], many).cards
    assert len(card.origins) == MAX_LINES + 1
    assert card.origins[-1] == "and 5 more"


@pytest.mark.bigquery
def test_a_run_after_a_check_shows_it(scratch: Scratch) -> None:
    scratch.model("base", "select cast(null as integer) as number")
    scratch.model("faulty", "select number as id from {{ ref('base') }}")
    tested = {"name": "id", "data_tests": ["not_null"]}
    scratch.properties(models=[{"name": "faulty", "columns": [tested]}])
    check_project(scratch.folder / "dbt", scratch.local, {}, ("bigquery",))

    done = scratch.run_pipeline("--no-prefect", "--skip", "docs", "--select", "base+")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "    faulty.id comes from:\n      base.number\n    reproduce: " in done.stderr
