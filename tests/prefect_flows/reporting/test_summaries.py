"""What a person reads of a run, also of one that did not end well."""

from __future__ import annotations

import io

from rich.console import Console

from prefect_flows.reporting import summaries

PASSED = {
    "nodes": 2,
    "statuses": {"success": 2},
    "seconds": 1.5,
    "attempts": 2,
    "resumed": 0,
    "failed": [],
    "warned": [],
}
FAILED = {
    "nodes": 3,
    "statuses": {"pass": 1, "fail": 1, "warn": 1},
    "seconds": 0.5,
    "attempts": 1,
    "resumed": 0,
    "failed": [
        {
            "node": "test.millrace.a",
            "status": "fail",
            "cause": "data",
            "message": "Got 1 result,\n a | b",
        }
    ],
    "warned": [
        {"node": "test.millrace.b", "status": "warn", "cause": None, "message": "Got 2 results"}
    ],
}
RECORD = {
    "target": "dev",
    "ingest": {"nyc__flights": {"rows": {"flights": 336776, "planes": 0}, "seconds": 4.8}},
    "freshness": {"skipped": "as asked"},
    "run": PASSED,
    "test": FAILED,
    "marts": {"fct_flights": 336776},
    "seconds": 14.0,
}


def test_extraction_lists_every_table() -> None:
    text = summaries.extraction(RECORD)
    assert "| nyc__flights | flights | 336,776 | 4.8 |" in text
    assert "| nyc__flights | planes | 0 | 4.8 |" in text
    assert "No source was ingested." in summaries.extraction({"target": "dev"})


def test_tests_list_what_failed_and_what_warned_and_keep_the_table_whole() -> None:
    text = summaries.tests(RECORD)
    assert "| dbt-test | 3 | 1 pass, 1 fail, 1 warn | 1 | 0.5 |" in text
    assert "| fail | test.millrace.a | data | Got 1 result, a \\| b |" in text
    assert "| warn | test.millrace.b |  | Got 2 results |" in text


def test_a_run_says_whether_it_passed() -> None:
    assert "Every stage passed." in summaries.run(RECORD)
    failed = summaries.run(RECORD, "dbt-test: 1 of 3 nodes failed")
    assert "Every stage passed." not in failed
    assert "**Failed.**" in failed
    assert "dbt-test: 1 of 3 nodes failed" in failed


def test_the_terminal_shows_stages_and_marts() -> None:
    console = Console(file=io.StringIO(), width=100)
    summaries.print_run(console, RECORD)
    text = console.file.getvalue()
    assert "2 success, in 2 attempts" in text
    assert "skipped: as asked" in text
    assert "336,776" in text
