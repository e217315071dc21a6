"""The page as text: whole, small, quick, and no text of a user is markup in it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from prefect_flows.reporting.run_report.build import build_report
from prefect_flows.reporting.run_report.html_page import html_page
from prefect_flows.state.run_summary import PublishedData, StageSummary
from prefect_flows.transform.run_report import FailingRows, RunContext, TestLine
from tests.support.reporting.synthetic import HOSTILE, facts

VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """The tags of a page, and whether each is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize(
    ("nodes", "failures"), [(10, True), (10, False), (1000, True), (3000, True), (3000, False)]
)
def test_the_page_is_whole_and_loads_nothing(nodes: int, failures: bool) -> None:
    text = html_page(build_report(facts(nodes, failures=failures)))
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes), tag
        assert "style" not in attributes
    targets = [attributes.get("href") or "" for attributes in page.all("a")]
    assert all(t.removeprefix("#") in ids for t in targets if t.startswith("#"))
    assert {t for t in targets if not t.startswith("#")} == {
        "http://127.0.0.1:4200/runs/flow-run/1",
        "../../index.html",
        "../../runs/dev/20261119T060000.000000-0189/report.html",
        "../../targets/dev/docs.html",
    }


def test_the_policy_lets_only_the_pages_own_script_run() -> None:
    text = html_page(build_report(facts(10)))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [meta["content"] or "" for meta in Page(text).all("meta") if "http-equiv" in meta]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_text_of_users_is_text_everywhere() -> None:
    report = build_report(facts(10))
    bad = HOSTILE + "\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"
    rows = FailingRows((bad, "b"), [(bad, None)], (bad,), bad)
    lineage = {i: replace(n, name=bad, owner=bad, path=bad) for i, n in report.lineage.items()}
    report = replace(
        report, target=bad, run_id=bad, project_name=bad, first_cause=bad, unreported=[bad],
        published=PublishedData(run_ids=[bad], since=datetime.now(UTC), blocked=[bad]),
        flow_run_url=f"javascript:{bad}",
        nodes=[replace(n, name=bad, stage=bad, status=bad) for n in report.nodes],
        stages=[StageSummary(stage=bad, seconds=1, statuses={bad: 1}) for _ in report.stages],
        cards=[replace(c, name=bad, message=bad, owner=bad, group=bad, path=bad, status=bad,
                       compiled_sql=bad, compiled_path=bad, command=bad, failing_rows=rows,
                       resource_type=bad, blocked=[(bad, bad)]) for c in report.cards] * 30,
        slowest=[replace(s, name=bad) for s in report.slowest],
        regressions=[replace(s, name=bad) for s in report.slowest],
        tests=[TestLine(bad, bad, 1), TestLine(bad, "pass", None)], marts={bad: 1},
        lineage=lineage,
    )  # fmt: skip
    text = html_page(report)
    page = Page(text)
    assert [script.get("id") for script in page.all("script")] == ["details", None]
    assert page.all("script")[0]["type"] == "application/gzip", "data, which no browser runs"
    assert page.all("img") == []
    assert "javascript:&" not in " ".join(a.get("href") or "" for a in page.all("a"))
    assert "javascript:" not in text.split("<main")[0]
    assert "{{ 7 * 7 }}" in text, "no text is a template"


def _details(text: str) -> dict[str, dict[str, Any]]:
    (packed,) = re.findall(r'<script type="application/gzip" id="details">(.*?)</script>', text)
    details: dict[str, dict[str, Any]] = json.loads(gzip.decompress(base64.b64decode(packed)))
    return details


def test_the_panel_of_a_node_holds_all_that_is_known_of_it() -> None:
    report = replace(
        build_report(facts(10)),
        columns={
            "model.p.int_crm__entity_2": {
                "ID": [("model.p.stg_crm__entity_0", "ID")],
                "total": [("model.p.stg_crm__entity_0", "a"), ("source.p.raw.s0", "b")],
            }
        },
    )
    details = _details(html_page(report))
    assert set(details) == set(report.lineage)
    failed = details["model.p.int_crm__entity_2"]
    assert failed["status"] == "error"
    assert failed["command"].startswith("cd dbt && uv run dbt run --target dev --select p.int")
    assert failed["tags"] == ["layer_int", "nightly"]
    assert failed["columns"] == [
        ["id", "bigint", "Key of the entity.", "stg_crm__entity_0.ID"],
        ["email", "text", "", ""],
        ["total", "", "", "stg_crm__entity_0.a, raw.s0.b (source)"],
    ]
    blocked = [(details[i]["type"], details[i].get("status")) for i in failed["blocks"]]
    assert blocked == [("test", "skipped"), ("exposure", None)]
    assert {status for _, status in failed["tests"]} == {"skipped"}
    assert len(failed["durations"]) == 4
    assert "select * from relation" in failed["sql"]
    retried = next(d for d in details.values() if len(d["log"]) == 2)
    assert "attempt 1: error" in retried["log"][0]
    assert "deadlock detected" in retried["log"][0]
    assert "attempt 2: success" in retried["log"][1]


def test_the_header_says_what_ran_where_and_from_which_commit() -> None:
    text = html_page(build_report(facts(10)), root="../../..")
    for part in (
        "select: [&#34;fct_flights+&#34;]", "0123456789ab-dirty", "<dd>worker-1</dd>",
        'href="../../../index.html"', 'href="../../../targets/dev/docs.html"',
    ):  # fmt: skip
        assert part in text, part
    plain = html_page(replace(build_report(facts(10)), context=RunContext()))
    assert "the whole project, with the default parameters" in plain
    assert "Previous run" not in plain


def test_what_a_reader_looks_for_is_there() -> None:
    text = html_page(build_report(facts(10)))
    for part in (
        "First cause.", "Failures (2)", "int_crm__entity_2", "ann@example.org",
        "cd dbt &amp;&amp; uv run dbt run --target dev --select p.int_crm__entity_2,file:",
        "Left out as personal data: email.", "Critical path in words", "336,776", "loaded",
        "skipped: nothing selected", "3.21 GB", "Tests (6)",
    ):  # fmt: skip
        assert part in text, part
    assert "a@example.org" not in text
    passed = html_page(build_report(facts(10, failures=False)))
    assert "Every test passed." in passed
    assert "First cause" not in passed


def test_a_run_of_a_target_that_publishes_says_what_readers_see() -> None:
    report = build_report(facts(10))
    since = datetime(2026, 11, 30, 4, 5, tzinfo=UTC)
    blocked = PublishedData(run_ids=["r1"], since=since, blocked=["test unique_id: fail"])
    page = html_page(replace(report, published=blocked))
    assert "Readers see the data of run r1, published at 2026-11-30 04:05 UTC." in page
    assert "This run did not publish because of:<ul><li>test unique_id: fail</li></ul>" in page
    own = PublishedData(run_ids=[report.run_id], since=since)
    page = html_page(replace(report, published=own))
    assert "<strong>Published.</strong> Readers see the data of this run since" in page
    assert "did not publish" not in page
    assert "Readers see" not in html_page(report)


def test_a_run_that_ended_before_its_first_node_has_a_page() -> None:
    given = replace(
        facts(10), results=[], stages=[], history=[], marts={}, flow_run_url=None,
        outcome="cancelled", first_cause="It was cancelled.", unreported=["the artifacts"],
    )  # fmt: skip
    text = html_page(build_report(given))
    Page(text)
    assert "It was cancelled." in text
    assert "the artifacts" in text
    assert "<script>" not in text


def test_headings_and_tables_can_be_found_by_ear() -> None:
    page = Page(html_page(build_report(facts(1000))))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(head.get("scope") in {"col", "row"} for head in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]
    regions = [a for _, a in page.tags if a.get("role") == "region"]
    assert all(a.get("aria-label") or a.get("aria-labelledby") for a in regions)
    assert all(a.get("tabindex") == "0" for a in regions)


def test_three_thousand_nodes_are_small_and_quick() -> None:
    report = build_report(facts(3000, threads=16))
    html_page(report)
    began = time.process_time()
    text = html_page(report)
    assert time.process_time() - began < 1.5  # 0.2 s where nothing else runs
    assert len(text.encode()) < 3_000_000


def test_hundreds_of_failures_do_not_make_it_large() -> None:
    report = build_report(facts(3000))
    card = replace(report.cards[0], compiled_sql="select 1\n" * 10_000, message="x" * 99_999)
    assert len(html_page(replace(report, cards=[card] * 1500)).encode()) < 3_000_000
