"""The report as Markdown: bounded, and no text of a user is markup in it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from prefect_flows.core.markup import code_block, escape_markdown
from prefect_flows.reporting.run_report.artifact import (
    MAX_BYTES,
    cards_markdown,
    headline,
    picture_markdown,
)
from prefect_flows.reporting.run_report.build import build_report
from prefect_flows.reporting.run_report.terminal import failure_text
from prefect_flows.transform.run_report import FailingRows
from tests.support.reporting.synthetic import HOSTILE, facts


@pytest.mark.parametrize("nodes", [10, 1000, 3000])
def test_the_page_is_bounded(nodes: int) -> None:
    size = len(cards_markdown(build_report(facts(nodes))).encode())
    assert size <= MAX_BYTES


def test_the_page_has_a_maximum_size() -> None:
    report = build_report(facts(3000))
    long = "x|`*\n" * 20_000
    wide = FailingRows(tuple("ab" * 50), [("<|é" * 500,) * 100] * 100, tuple("cd" * 999), long)
    cards = [
        replace(card, message=long, compiled_sql=long, name=long, owner=long, path=long,
                failing_rows=wide, blocked=[("model", long)] * 999, command=long)
        for card in report.cards
    ]  # fmt: skip
    nodes = replace(
        report,
        cards=cards,
        first_cause=long,
        unreported=[long] * 999,
        marts={f"{long}{i}": i for i in range(999)},
        tests=[replace(test, name=long, status="fail") for test in report.tests],
        slowest=[replace(slow, name=long) for slow in report.slowest],
    )
    size = len(cards_markdown(nodes).encode())
    assert size <= MAX_BYTES


def test_a_card_says_what_to_do() -> None:
    text = cards_markdown(build_report(facts(10)))
    assert "# millrace on dev: failed" in text
    assert "**First cause.** model int\\_crm\\_\\_entity\\_2" in text
    assert "### error: model int\\_crm\\_\\_entity\\_2" in text
    assert "- owner: ann\\@example.org" in text
    assert "cd dbt && uv run dbt run --target dev --select p.int_crm__entity_2,file:" in text
    assert "Left out as personal data: email." in text
    assert "| 2 | *null* |" in text
    assert "## Tests that failed or warned (1 of 6)" in text
    assert "a\\@example.org" not in text
    assert "a@example.org" not in text


def test_a_passed_run_is_short() -> None:
    text = cards_markdown(build_report(facts(10, failures=False)))
    assert "# millrace on dev: passed" in text
    assert "Failures" not in text
    assert "| fct\\_flights | 336,776 |" in text


def test_more_than_twenty_failures_are_counted() -> None:
    report = build_report(facts(3000))
    text = cards_markdown(report)
    assert text.count("\n### ") == 20
    assert f"And {len(report.cards) - 20} more failures" in text


def test_text_is_not_markup() -> None:
    assert escape_markdown("a|b`c\nd <b>*x*</b> & [x](http://evil) www.evil") == (
        r"a\|b\`c d \<b\>\*x\*\</b\> \& \[x\]\(http\://evil\) www\.evil"
    )
    assert escape_markdown("x" * 400, 10) == "x" * 9 + "…"
    text = cards_markdown(build_report(facts(10)))
    outside = re.sub(r"^(```+)\w*\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"(?<!\\)<", outside)
    assert HOSTILE in text, "in a block of code it stands as it is"


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    text = "```\n````\n<script>"
    assert code_block(text, "sql", 100) == f"`````sql\n{text}\n`````"
    assert code_block("abcdef", "text", 3) == "```text\nabc… (3 more characters)\n```"


@pytest.mark.parametrize("nodes", [10, 3000])
def test_the_picture_is_an_image_that_fits(nodes: int) -> None:
    picture = picture_markdown(build_report(facts(nodes, threads=16)))
    assert picture is not None
    assert picture.startswith("![Timeline of the run](data:image/svg+xml;base64,")
    assert len(picture) < 61_000


def test_a_list_of_artifacts_says_how_the_run_ended() -> None:
    failed, passed = build_report(facts(10)), build_report(facts(10, failures=False))
    more = f" and {len(failed.cards) - 1} more"
    assert headline(failed) == f"failed: {failed.cards[0].name} (code){more}"
    assert headline(passed).startswith("passed: ")
    assert headline(replace(passed, nodes=[])) == "passed: nothing changed"
    assert headline(replace(passed, outcome="cancelled")) == "cancelled"


def test_a_terminal_gets_ten_failures_with_line_breaks_and_what_they_skip() -> None:
    report = build_report(facts(3000))
    text = failure_text({"target": "dev"}, report, "/state/report.html")
    card = report.cards[0]
    assert f"\nFailed ({len(report.cards)}):\n  {card.resource_type} {card.name}, code" in text
    assert "\n    " + "\n    ".join(str(card.message).splitlines()) + "\n    reproduce: " in text
    assert text.count("reproduce: ") == min(len(report.cards), 10)
    assert "\nSkipped (" in text
    assert " more\nReport: /state/report.html" in text
