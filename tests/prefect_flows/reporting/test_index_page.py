"""The page over all targets: what is on it, what is no markup in it, and that no run is lost."""

from __future__ import annotations

import logging
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from prefect_flows.core.formatting import format_duration
from prefect_flows.core.settings import Settings
from prefect_flows.reporting.charts.trend import Point, draw_trend
from prefect_flows.reporting.overview import index_page as index
from prefect_flows.reporting.overview.index_page import (
    INDEX,
    index_page,
    write_index,
)
from prefect_flows.reporting.overview.pages import publish
from prefect_flows.reporting.overview.serve import build_response
from prefect_flows.state.incidents import Incident, save_incidents
from prefect_flows.state.run_summary import StageSummary
from prefect_flows.state.runs import Run, RunHeader
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_overview import load_overviews
from tests.prefect_flows.reporting.test_html_page import Page
from tests.support.object_stores import gs_bucket
from tests.support.reporting.made_up_runs import LOG, keep_made_up_run, made_up_report
from tests.support.reporting.synthetic import HOSTILE, START

NOW = START + timedelta(days=9)


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(str(tmp_path / "store"))


def page(store: StateStore) -> str:
    return index_page(load_overviews(store), NOW)


def incident(name: str = "model fct_flights", **changes: object) -> Incident:
    given = {
        "id": name, "name": name, "cause": "Database Error", "node": "model.p.fct_flights",
        "owner": "ann@example.org", "blocked": 4, "first_at": START, "last_at": START, "runs": 3,
        "url": "http://127.0.0.1:4200/1", "command": "cd dbt && uv run dbt run",
    }  # fmt: skip
    return Incident.model_validate(given | changes)


def test_what_a_person_looks_for_is_there(store: StateStore) -> None:
    for number in range(4):
        keep_made_up_run(
            store, made_up_report(failures=number == 3), target="prod", number=number,
            settings=Settings(price_per_tib=6),
        )  # fmt: skip
    keep_made_up_run(store, made_up_report(), number=4)
    save_incidents(store, "prod", [incident(), incident("source raw.s0", kind="stale")])
    store.write("targets/prod/docs.html", b"docs")
    text = page(store)
    Page(text)
    for part in (
        "Targets (2)", "2026-11-23 06:00 UTC", "2026-11-22 06:00 UTC", "First cause.",
        "1 pass", "raw.s0", "fct_flights", "agg_never_built", "336,776", "not known",
        "Open incidents (2)", "cd dbt &amp;&amp; uv run dbt run", "ann@example.org", "by 3 runs",
        'href="targets/prod/report.html"', 'href="targets/prod/docs.html"', "cost 3.00",
        'id="prod-duration-t"', 'id="prod-cost-t"', 'id="prod-billed-t"', "4 runs of prod",
    ):  # fmt: skip
        assert part in text, part
    assert "targets/dev/docs.html" not in text, "what is not there is not linked"


def test_every_link_leads_somewhere(store: StateStore, tmp_path: Path) -> None:
    for number in range(3):
        keep_made_up_run(store, made_up_report(), number=number)
    gone = keep_made_up_run(store, made_up_report(), number=3)
    keep_made_up_run(store, None, number=4, failure="Nothing parses.")
    shutil.rmtree(tmp_path / "store" / gone.folder)
    text = page(store)
    parsed = Page(text)
    ids = [attributes["id"] for _, attributes in parsed.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [a["href"] or "" for a in parsed.all("a")]
    local = [link for link in links if not link.startswith(("#", "http://"))]
    assert len(local) == 5, "four runs' reports, one of a refused run, and the target's"
    assert all((tmp_path / "store" / link).is_file() for link in local)
    assert all(link.removeprefix("#") in ids for link in links if link.startswith("#"))
    assert "removed" in text


def test_it_loads_nothing_and_runs_nothing(store: StateStore) -> None:
    for number in range(3):
        keep_made_up_run(store, made_up_report(), number=number)
    parsed = Page(page(store))
    assert parsed.all("script") == []
    assert all("src" not in attributes for _, attributes in parsed.tags)
    assert not any(name.startswith("on") for _, a in parsed.tags for name in a)
    (policy,) = [meta["content"] for meta in parsed.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in (policy or "")
    assert "script-src" not in (policy or "")
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(head.get("scope") in {"col", "row"} for head in parsed.all("th"))


def test_text_of_users_is_text_everywhere(store: StateStore) -> None:
    bad = HOSTILE + "\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"
    report = replace(
        made_up_report(failures=True), first_cause=bad, project_name=bad, marts={bad: 1}
    )
    lineage = {i: replace(node, name=bad) for i, node in report.lineage.items()}
    lineage[f"source.p.{bad}"] = replace(lineage["source.p.raw.s0"], unique_id=f"source.p.{bad}")
    stages = [StageSummary(stage=bad, seconds=1, skipped=bad) for _ in report.stages]
    for number in range(3):
        keep_made_up_run(store, replace(report, lineage=lineage, stages=stages), number=number)
    save_incidents(
        store, "dev",
        [incident(bad, id=str(i), cause=bad, owner=bad, command=bad, url=f"javascript:{bad}")
         for i in range(50)],
    )  # fmt: skip
    text = page(store)
    parsed = Page(text)
    assert parsed.all("script") == []
    assert parsed.all("img") == []
    assert not any((a.get("href") or "").startswith("javascript") for a in parsed.all("a"))
    assert "{{ 7 * 7 }}" in text, "no text is a template"
    assert "10 more incidents" in text


def test_a_target_that_cannot_be_read_hides_no_other(store: StateStore) -> None:
    keep_made_up_run(store, made_up_report())
    keep_made_up_run(store, made_up_report(), target="prod")
    store.write("targets/prod/history.json", b"{")
    store.write("targets/dev/incidents.json", b"[{}]")
    text = page(store)
    assert "targets/prod/history.json" in text
    assert "targets/dev/incidents.json" in text
    assert "run the target: its next run continues" in text
    assert text.count("Last good run") == 1, "dev is there"


def test_a_run_that_has_not_ended_is_reported(store: StateStore) -> None:
    keep_made_up_run(store, made_up_report())
    header = RunHeader(
        id="now", target="dev", parameters={}, url=None, started_at=NOW - timedelta(hours=1)
    )
    run = Run(store, header)
    run.begin(None, [])
    assert "A run began at" in page(store)
    run.end("passed")
    assert "A run began at" not in page(store)


def test_a_store_without_runs_has_a_page(store: StateStore) -> None:
    assert "No run of any target has ended yet." in page(store)
    store.write("targets/dev/report.html", b"")
    assert "No finished run has a summary." in page(store)


def test_a_run_that_ends_meanwhile_is_on_the_page(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_made_up_run(store, made_up_report())
    real = store.write

    def another_run_ends(path: str, data: bytes) -> None:
        real(path, data)
        if path == INDEX:
            monkeypatch.setattr(store, "write", real)
            keep_made_up_run(store, made_up_report(), target="prod")

    monkeypatch.setattr(store, "write", another_run_ends)
    assert write_index(store) == 2
    assert 'id="target-prod"' in (store.read(INDEX) or b"").decode()


def _ends(url: str, target: str) -> None:
    store = StateStore(url)
    report = made_up_report()
    for number in range(5):
        keep_made_up_run(store, report, target=target, number=number)
        write_index(store)


def test_runs_of_many_targets_that_end_at_once_are_all_on_it(store: StateStore) -> None:
    targets = ["dev", "staging", "prod"]
    with ThreadPoolExecutor() as pool:
        list(pool.map(_ends, [store.url] * 3, targets))
    text = (store.read(INDEX) or b"").decode()
    assert [f"5 runs of {target}" in text for target in targets] == [True] * 3
    assert text.count("2026-11-24 06:00 UTC") >= 6, "the last run of each"


def test_the_pages_of_a_bucket(tmp_path: Path) -> None:
    with gs_bucket(tmp_path) as url:
        store = StateStore(f"{url}/millrace")
        keep_made_up_run(store, made_up_report())
        save_incidents(store, "dev", [incident()])
        with ThreadPoolExecutor() as pool:
            list(pool.map(_ends, [store.url] * 2, ["staging", "prod"]))
        text = (store.read(INDEX) or b"").decode()
        assert [f"5 runs of {target}" in text for target in ("staging", "prod")] == [True] * 2
        assert "Open incidents (1)" in text
        links = [a["href"] or "" for a in Page(text).all("a")]
        local = [link for link in links if not link.startswith(("#", "http://"))]
        assert len(local) == 14
        assert all(build_response(store, f"/{link}")[0] == HTTPStatus.OK for link in local)


def test_a_page_that_cannot_be_written_fails_no_run(
    store: StateStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store" / INDEX).mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        publish(store, "dev", Settings(), LOG)
    assert "The overview page could not be written." in caplog.text
    assert str(tmp_path / "store" / INDEX) in caplog.text


def test_it_is_bounded(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_made_up_run(store, made_up_report(3000))
    text = page(store)
    assert len(text.encode()) < 100_000
    assert "<details><summary>120 tables of sources, worst first</summary>" in text
    assert index.MAX_INCIDENTS == 40


@pytest.mark.parametrize("number", [2, 10, 100])
def test_a_trend_is_a_whole_picture_with_words(number: int) -> None:
    points = [
        Point(START + timedelta(days=i), 10.0 + i, "failed" if i == 1 else "passed", i != 0)
        for i in range(number)
    ]
    svg = ET.fromstring(
        draw_trend("dev-duration", "Duration of dev", points, format_duration) or ""
    )
    space = "{http://www.w3.org/2000/svg}"
    words = svg.findtext(f"{space}desc") or ""
    assert f"{number} runs, from 2026-11-20 to" in words
    assert ("median" in words) == (number >= 5)
    bars = [bar for bar in svg.iter(f"{space}rect") if bar.find(f"{space}title") is not None]
    assert len(bars) == number
    assert all(0 <= float(bar.get("x") or -1) <= 328 for bar in bars)
    assert all(float(bar.get("width") or 0) > 1 for bar in bars)
    assert sum("part" in (bar.get("class") or "") for bar in bars) == 1
    assert draw_trend("a", "b", points[:1], format_duration) is None
