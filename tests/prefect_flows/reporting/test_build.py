"""From the facts of a run to its report."""

from __future__ import annotations

from dataclasses import replace

from prefect_flows.core.failure_class import FailureClass
from prefect_flows.reporting.charts.svg import size
from prefect_flows.reporting.run_report.artifact import cards_markdown
from prefect_flows.reporting.run_report.build import (
    Compiled,
    build_report,
    failing_rows,
    find_personal_columns_near,
)
from prefect_flows.reporting.run_report.html_page import html_page
from prefect_flows.transform.lineage import EVERY_COLUMN
from prefect_flows.transform.repro_command import build_command
from tests.support.reporting.synthetic import HOSTILE, facts

GIVEN = facts(10)


def test_a_failed_run_has_a_card_a_failed_node() -> None:
    report = build_report(GIVEN)
    assert report.outcome == "failed"
    model, test = report.cards
    assert (model.resource_type, model.status, model.cause) == ("model", "error", FailureClass.CODE)
    assert model.owner == "ann@example.org"
    assert ("exposure", "board") in model.blocked
    assert ("test", "not_null_int_crm__entity_2_column_2") in model.blocked
    selector = "p.int_crm__entity_2,file:int_crm__entity_2.sql"
    assert model.command == f"cd dbt && uv run dbt run --target dev --select {selector}"
    assert HOSTILE in (model.compiled_sql or "")
    assert test.failures == 12
    assert test.owner == "ann@example.org", "a test is fixed by the owner of what it is about"
    assert test.blocked == [("exposure", "board")]
    assert test.failing_rows is not None
    assert test.failing_rows.hidden_columns == ("email",)
    assert "example.org" not in str(test.failing_rows)
    assert report.first_cause is not None
    assert report.first_cause.startswith("model int_crm__entity_2 (code): Database Error")


def test_what_a_retry_may_fix_comes_last() -> None:
    results = [
        replace(node, cause=FailureClass.TRANSIENT) if node.status == "error" else node
        for node in GIVEN.results
    ]
    report = build_report(replace(GIVEN, results=results))
    assert [card.cause for card in report.cards] == [FailureClass.DATA, FailureClass.TRANSIENT]


def test_a_passed_run_has_no_card_and_no_cause() -> None:
    report = build_report(facts(10, failures=False))
    assert (report.outcome, report.cards, report.first_cause) == ("passed", [], None)
    assert len(report.tests) == 6


def test_the_cause_of_a_failed_run_needs_no_node() -> None:
    given = replace(facts(10, failures=False), outcome="timed out", first_cause="dbt-run: 900 s")
    assert build_report(given).first_cause == "dbt-run: 900 s"


def test_messages_near_personal_data_hold_no_value() -> None:
    lineage = dict(GIVEN.lineage)
    source = next(i for i in lineage if i.startswith("source."))
    lineage[source] = replace(lineage[source], pii_columns=frozenset({"email"}))
    report = build_report(replace(GIVEN, lineage=lineage))
    assert all("script" not in (card.message or "") for card in report.cards)
    assert "script" not in (report.first_cause or "")
    assert all("script" not in (node.message or "") for node in report.nodes)


def test_the_slowest_and_every_regression_are_listed() -> None:
    report = build_report(facts(300))
    assert len(report.slowest) == 10
    assert report.slowest[0].seconds == max(node.seconds for node in report.nodes)
    assert report.regressions
    assert all(slow.regression for slow in report.regressions)


def test_failed_tests_come_first() -> None:
    statuses = [test.status for test in build_report(facts(1000)).tests]
    assert statuses[0] == "fail"
    assert statuses.index("pass") > statuses.index("warn")


def test_a_command_for_each_kind_of_node() -> None:
    test = next(node for node in GIVEN.results if node.resource_type == "test")
    assert build_command(test, "dev").startswith("cd dbt && uv run dbt test --target dev --select ")
    source = replace(
        test, resource_type="source", fqn=("p", "crm", "raw", "people"), stage="dbt-freshness"
    )
    assert build_command(source, "dev", "--vars '{a: 1}'") == (
        "cd dbt && uv run dbt source freshness --target dev --select source:p.raw.people "
        "--vars '{a: 1}'"
    )
    hook = replace(test, resource_type="operation", stage="dbt-run")
    assert build_command(hook, "dev") == "cd dbt && uv run dbt run --target dev"
    hostile = replace(test, fqn=("p", "a; rm -rf /"), path="tests/a.yml")
    assert build_command(hostile, "dev").endswith("--select 'p.a; rm -rf /'")


def test_rows_of_a_test_on_a_renamed_column_are_left_out() -> None:
    lineage = dict(GIVEN.lineage)
    source = next(i for i in lineage if i.startswith("source."))
    lineage[source] = replace(lineage[source], pii_columns=frozenset({"email"}))
    model = "model.p.stg_crm__entity_0"
    test = next(i for i, n in lineage.items() if n.attached_to == model)
    compiled = {model: Compiled(None, "select email as contact, id from s0")}
    pii = find_personal_columns_near(lineage, [test], compiled, "postgres")[test]
    sql = "select contact as value_field, count(*) as n from m group by contact"
    found = failing_rows(("value_field", "n"), [("a@example.org", 2)], sql, "postgres", pii)
    assert (found.columns, found.hidden_columns, found.rows) == (("n",), ("value_field",), [("2",)])
    unknown = find_personal_columns_near(lineage, [test], {}, "postgres")[test]
    assert EVERY_COLUMN in unknown


def test_what_read_most_is_named_where_the_warehouse_says_what_was_read() -> None:
    asked = GIVEN
    assert build_report(asked).costliest == []
    assert "Costliest" not in html_page(build_report(asked)) + cards_markdown(build_report(asked))

    responses = [{"bytes_processed": 10**number, "slot_ms": 1500} for number in range(12)]
    read = [replace(n, response=r) for n, r in zip(asked.results, responses, strict=False)]
    report = build_report(replace(asked, results=read))

    assert [node.bytes for node in report.costliest] == sorted(
        (node.bytes or 0 for node in read), reverse=True
    )[:10]
    most = report.costliest[0]
    for text in (html_page(report), cards_markdown(report)):
        assert "Costliest nodes" in text
        assert most.name in text
        assert size(most.bytes) in text
        assert "1.5" in text
