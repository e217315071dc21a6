"""The site as files, in a browser without a network: it fits, and can be searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(360, "dark"), pytest.param(1280, "light", marks=pytest.mark.nightly)],
)
def test_every_page_fits_and_asks_nobody(browser: Any, site: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 800}
    page = browser.new_page(viewport=size, color_scheme=scheme, offline=True)
    said: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for file in sorted(site.rglob("*.html")):
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, file.name
    assert page.evaluate("document.body.dataset.mdColorScheme") == (
        "slate" if scheme == "dark" else "default"
    )
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()


def test_it_can_be_searched_without_a_server(browser: Any, site: Path) -> None:
    page = browser.new_page(offline=True)
    page.goto((site / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("backup restore")
    found = page.locator(".md-search-result__item").filter(has_text="Restore")
    found.first.wait_for(timeout=20_000)
    found.first.locator("a").first.click()
    page.wait_for_url("**/*.html*")
    assert page.url.startswith("file:")
    page.close()
