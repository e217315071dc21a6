"""The page over all targets, and the report, for those who have a phone, no mouse, or no eyes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from prefect_flows.core.settings import Settings
from prefect_flows.reporting.overview.index_page import write_index
from prefect_flows.reporting.run_report.build import build_report
from prefect_flows.reporting.run_report.html_page import html_page
from prefect_flows.state.incidents import Incident, save_incidents
from prefect_flows.state.runs import Run, RunHeader
from prefect_flows.state.store import StateStore
from tests.prefect_flows.reporting.test_html_page_in_browser import CONTRASTS
from tests.support.reporting.made_up_runs import keep_made_up_run, made_up_report
from tests.support.reporting.synthetic import START, facts

SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page after runs of two targets, with all that it can show."""
    store = StateStore(str(tmp_path_factory.mktemp("index") / "store"))
    for number in range(12):
        keep_made_up_run(
            store, made_up_report(30, failures=number % 5 == 4), target="prod", number=number,
            settings=Settings(price_per_tib=6), seconds=500 + 37 * (number % 4),
            ended="cancelled" if number == 7 else None, whole=number != 5,
        )  # fmt: skip
    keep_made_up_run(store, made_up_report(failures=True), number=3)
    header = RunHeader(id="now", target="dev", parameters={}, url=None,
                       started_at=START + timedelta(days=20))  # fmt: skip
    Run(store, header).begin(None, [])
    save_incidents(
        store, "dev",
        [Incident(id="a", name="model int_crm__entity_2", cause="x" * 300, blocked=2,
                  first_at=START, last_at=START, url="http://127.0.0.1:4200/runs/1",
                  command="cd dbt && uv run dbt run --target dev --select int_crm__entity_2")],
    )  # fmt: skip
    store.write("targets/old/history.json", b"{")
    store.write("targets/prod/docs.html", b"<!DOCTYPE html><title>docs</title>")
    write_index(store)
    assert store.folder is not None
    return store.folder / "index.html"


@contextmanager
def shown(browser: Any, file: Path, width: int, scheme: str) -> Iterator[Any]:
    # axe is a script, and the page's policy lets none run but its own.
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True
    )
    try:
        page = context.new_page()
        page.goto(file.as_uri())
        yield page
    finally:
        context.close()


def serious(page: Any) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:120]}"
        for fault in found
        if fault["impact"] in SERIOUS
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_index_fits_and_can_be_read(browser: Any, index: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(index.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRASTS) == []
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    charts = page.locator(".mr-trend")
    assert charts.count() == 3
    assert all(chart.bounding_box()["width"] >= 290 for chart in charts.all())
    page.close()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "light"),
        (1280, "dark"),
        pytest.param(360, "dark", marks=pytest.mark.nightly),
        pytest.param(1280, "light", marks=pytest.mark.nightly),
    ],
)
def test_axe_finds_nothing_serious_on_the_index(
    browser: Any, index: Path, width: int, scheme: str
) -> None:
    with shown(browser, index, width, scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        assert serious(page) == []


@pytest.mark.parametrize(
    ("nodes", "width", "scheme"),
    [
        (10, 360, "dark"),
        (10, 1280, "light"),
        pytest.param(10, 360, "light", marks=pytest.mark.nightly),
        pytest.param(10, 1280, "dark", marks=pytest.mark.nightly),
        pytest.param(1000, 360, "light", marks=pytest.mark.nightly),
    ],
)
def test_axe_finds_nothing_serious_on_the_report(
    browser: Any, tmp_path: Path, nodes: int, width: int, scheme: str
) -> None:
    file = tmp_path / "report.html"
    file.write_text(html_page(build_report(facts(nodes))))
    with shown(browser, file, width, scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        assert serious(page) == []


def test_axe_finds_nothing_serious_in_the_panel(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(html_page(build_report(facts(60))))
    with shown(browser, file, 360, "dark") as page:
        page.locator("#failure-1-t [data-node] button").click()
        page.wait_for_selector("#panel[open] dl")
        assert serious(page) == []


def test_axe_is_asked_in_earnest(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text("<title>a</title><img src='data:,'><a href='#x'></a>")
    with shown(browser, file, 360, "light") as page:
        assert {fault.split(":")[0] for fault in serious(page)} >= {"image-alt", "link-name"}


def test_everything_is_reached_by_keyboard(browser: Any, index: Path) -> None:
    with shown(browser, index, 360, "light") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the targets"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        wanted = page.evaluate("document.querySelectorAll('main a, main summary').length")
        assert wanted > 10
        reached = 0
        for _ in range(wanted + 40):
            page.keyboard.press("Tab")
            tag, seen = page.evaluate("""() => {
              const e = document.activeElement, box = e.getBoundingClientRect();
              return [e.tagName, box.width > 0 && box.bottom > 0 && box.top < innerHeight
                && getComputedStyle(e).outlineStyle !== 'none']; }""")
            if tag == "BODY":
                break
            assert seen, "what has the focus is in sight, and marked"
            reached += tag in {"A", "SUMMARY"}
        closed = page.evaluate("document.querySelectorAll('details:not([open]) a').length")
        assert reached == wanted - closed
        summary = page.locator("summary", has_text="12 runs of prod").first
        summary.focus()
        page.keyboard.press("Enter")
        assert page.get_by_role("region", name="Runs of prod").locator("tbody tr").count() == 12


def test_the_pictures_have_words(browser: Any, index: Path) -> None:
    with shown(browser, index, 1280, "light") as page:
        picture = page.get_by_role("img", name="Duration of prod")
        assert picture.count() == 1
        assert "12 runs, from 2026-11-20 to 2026-12-01." in picture.locator("desc").text_content()
