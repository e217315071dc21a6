"""What a person reads of a run, also of one that did not end well."""

from __future__ import annotations

import io

from rich.console import Console

from prefect_flows.reporting.run_report import stage_summaries

PASSED = {
    "nodes": 2,
    "statuses": {"success": 2},
    "seconds": 1.5,
    "attempts": 2,
    "resumed": 0,
    "rows": 300,
    "bytes": 0,
    "failed": [],
    "warned": [],
}
FAILED = {
    "nodes": 3,
    "statuses": {"pass": 1, "fail": 1, "warn": 1},
    "seconds": 0.5,
    "attempts": 1,
    "resumed": 0,
    "rows": 0,
    "bytes": 0,
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
    "ingest": {
        "nyc__flights": {
            "schema": "raw_nyc__flights",
            "rows": {"flights": 336776, "planes": 0},
            "bytes": 12_345_678,
            "seconds": 4.8,
            "extract_seconds": 2.0,
            "load_seconds": 2.8,
            "removed": {"flights": 7},
            "schema_changes": ["new table planes (9 columns)"],
            "rejected": [
                {"table": "flights", "where": "may.csv, line 3", "why": "no | date", "rows": 2}
            ],
            "rejected_rows": 2,
        }
    },
    "freshness": {"skipped": "as asked"},
    "run": PASSED,
    "test": FAILED,
    "marts": {"fct_flights": 336776},
    "seconds": 14.0,
}


def test_extraction_says_how_much_how_fast_and_what_was_refused() -> None:
    text = stage_summaries.extraction(RECORD)
    assert "| nyc__flights | 336,776 | 12,345,678 | 2.0 | 168,388 | 2 |" in text
    assert "| nyc__flights | flights | may.csv, line 3 | no \\| date | 2 |" in text
    assert "No source was ingested." in stage_summaries.extraction({"target": "dev"})


def test_load_lists_every_table_and_what_changed_in_the_schema() -> None:
    text = stage_summaries.load(RECORD)
    assert "| raw_nyc__flights.flights | 336,776 | 7 | 2.8 | 120,277 |" in text
    assert "| raw_nyc__flights.planes | 0 | 0 | 2.8 | 120,277 |" in text
    assert "| raw_nyc__flights | new table planes (9 columns) |" in text
    assert "No source was loaded." in stage_summaries.load({"target": "dev"})


def test_transformation_says_how_many_rows_and_how_fast() -> None:
    text = stage_summaries.transformation(RECORD)
    assert "| dbt-run | 2 | 2 success | 2 | 300 |  | 1.5 | 200 |" in text


def test_validation_lists_what_failed_and_what_warned_and_keep_the_table_whole() -> None:
    text = stage_summaries.validation(RECORD)
    assert "| dbt-test | 3 | 1 pass, 1 fail, 1 warn | 1 |  |  | 0.5 |  |" in text
    assert "| fail | test.millrace.a | data | Got 1 result, a \\| b |" in text
    assert "| warn | test.millrace.b |  | Got 2 results |" in text


def test_a_run_says_whether_it_passed() -> None:
    assert "Every stage passed." in stage_summaries.run(RECORD)
    failed = stage_summaries.run(RECORD, "dbt-test: 1 of 3 nodes failed")
    assert "Every stage passed." not in failed
    assert "**Failed.**" in failed
    assert "dbt-test: 1 of 3 nodes failed" in failed


def test_the_terminal_shows_stages_and_marts() -> None:
    console = Console(file=io.StringIO(), width=100)
    stage_summaries.print_run(console, RECORD)
    text = console.file.getvalue()
    assert "2 success, in 2 attempts" in text
    assert "skipped: as asked" in text
    assert "336,776" in text
