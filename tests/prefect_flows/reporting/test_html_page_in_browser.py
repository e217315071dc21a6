"""The page in a browser: nothing is wider than the screen, nothing is loaded, its script works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefect_flows.reporting.run_report.build import build_report
from prefect_flows.reporting.run_report.html_page import html_page
from tests.support.reporting.synthetic import facts

# Contrast of a text against what is behind it, as WCAG 2.2 counts it.
CONTRASTS = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const curve = (v) => (v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  const channel = (v) => curve(v / 255);
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; }
    return [255, 255, 255]; };
  const poor = [];
  for (const e of document.querySelectorAll('h1,h2,h3,h4,p,td,th,li,dt,dd,a,span,summary,pre')) {
    if (!e.textContent.trim() || !e.getClientRects().length) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.push(`${e.tagName} ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("nodes", [10, 1000])
@pytest.mark.parametrize("failures", [True, False])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(
    browser: Any, tmp_path: Path, nodes: int, failures: bool, width: int, scheme: str
) -> None:
    file = tmp_path / "report.html"
    file.write_text(html_page(build_report(facts(nodes, failures=failures))))
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRASTS) == []
    unnamed = "[...document.querySelectorAll('svg')].filter(e => !e.querySelector('title')).length"
    assert page.evaluate(unnamed) == 0
    assert said == [], "the policy lets the script run, and it has no error"
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()


def test_the_table_of_all_nodes_filters_and_sorts_by_keyboard(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(html_page(build_report(facts(1000))))
    page = browser.new_page()
    page.goto(file.as_uri())
    summary = page.locator("section[aria-labelledby=nodes] summary")
    summary.focus()
    page.keyboard.press("Enter")
    page.fill("#filter-text", "entity_1 ")
    page.select_option("#filter-status", "error")
    page.wait_for_timeout(300)
    shown = page.locator("#all-nodes tbody tr:visible")
    assert set(shown.locator("td:nth-child(4)").all_inner_texts()) == {"error"}
    assert "of 1000 nodes shown" in page.inner_text("#filter-count")
    page.select_option("#filter-status", "")
    page.fill("#filter-text", "")
    page.wait_for_timeout(300)
    page.get_by_role("button", name="Seconds").focus()
    page.keyboard.press("Enter")
    seconds = [float(t) for t in page.locator("#all-nodes td:nth-child(5)").all_inner_texts()]
    assert seconds == sorted(seconds, reverse=True)
    assert page.locator("#all-nodes th[aria-sort=descending]").count() == 1
    page.close()


def test_filters_narrow_the_table_by_owner_stage_and_tag(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(html_page(build_report(facts(60))))
    page = browser.new_page()
    page.goto(file.as_uri())
    page.locator("section[aria-labelledby=nodes] summary").click()
    shown = page.locator("#all-nodes tbody tr:visible")
    assert shown.count() == 60
    page.select_option("#filter-stage", "dbt-run")
    assert shown.count() == 24
    page.select_option("#filter-tag", "layer_fct")
    assert {name[:4] for name in shown.locator("th").all_inner_texts()} == {"fct_"}
    page.select_option("#filter-owner", "ann@example.org")
    assert shown.count() == 8
    page.close()


def test_the_panel_of_a_node_opens_from_table_lineage_and_card(
    browser: Any, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_text(html_page(build_report(facts(60))))
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(file.as_uri())
    title = page.locator("#panel-title")
    page.locator("#failure-1-t button").click()
    page.wait_for_selector("#panel[open] dl")
    assert "not_null_stg_crm__entity_7" in title.inner_text()
    assert "Got 12 results" in page.inner_text("#panel-body")
    page.locator("#panel-body ul button", has_text="stg_crm__entity_7").first.click()
    page.wait_for_function(
        "document.getElementById('panel-title').textContent === 'model stg_crm__entity_7'"
    )
    for part in ("Tests", "Is read by", "Seconds in the last 5 runs", "Columns", "bigint"):
        assert part in page.inner_text("#panel-body")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.keyboard.press("Escape")
    assert page.locator("#panel[open]").count() == 0
    assert page.evaluate("document.activeElement.closest('#failure-1-t') !== null"), "focus is back"
    box = page.locator("#lineage-picture g[data-node='model.p.int_crm__entity_8']")
    box.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel[open]")
    page.wait_for_function(
        "document.getElementById('panel-title').textContent === 'model int_crm__entity_8'"
    )
    page.click("#panel-close")
    page.close()


def test_the_lineage_starts_at_the_first_failure_and_can_be_searched_and_scaled(
    browser: Any, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_text(html_page(build_report(facts(1000))))
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(file.as_uri())
    picture = page.locator("#lineage-picture")
    in_sight = """(box) => {
      const [inner, outer] = [box, document.getElementById("lineage-picture")].map(
        (each) => each.getBoundingClientRect());
      return inner.left >= outer.left && inner.right <= outer.right && inner.top >= outer.top
        && inner.bottom <= outer.bottom; }"""
    assert picture.locator("rect.box.is-failed").first.evaluate(in_sight)
    name = picture.locator("g[data-node]").last.get_attribute("data-node")
    page.fill("#lineage-search", name.removeprefix("model.p.").removeprefix("exposure.p."))
    assert picture.locator("g.is-found").first.evaluate(in_sight)
    assert "boxes" in page.inner_text("#lineage-count")
    width = picture.locator("svg").evaluate("(svg) => svg.width.baseVal.value")
    page.get_by_role("button", name="Larger").click()
    wider = picture.locator("svg").evaluate("(svg) => svg.width.baseVal.value")
    assert wider == pytest.approx(width * 1.25)
    page.get_by_role("button", name="Fit").click()
    assert picture.evaluate("(e) => e.scrollWidth <= e.clientWidth + 8")
    page.close()
