"""Takes the screenshots of the documentation from the last run of the target `dev`.

    uv run quickstart && uv run python documentation/screenshots.py

Needs Chromium on the PATH. `--all FOLDER` takes each page at each width and in both color schemes
instead, to look at.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
STORE = ROOT / ".local" / "state"
REPORT, INDEX = "targets/dev/report.html", "index.html"
ASSETS = ROOT / "documentation" / "assets"
DESKTOP, PHONE = {"width": 1100, "height": 620}, {"width": 390, "height": 760}
# A model with tests, columns and nodes that read it.
MODEL = "model.millrace.fct_flights"


def main() -> None:
    """Save the three screenshots of the documentation, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="folder for all screenshots")
    folder = parser.parse_args().all
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Chromium is not on the PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if folder is None:
            take(browser, ASSETS / "report.png", REPORT, DESKTOP, "light")
            take(browser, ASSETS / "panel.png", REPORT, DESKTOP, "dark", open_panel)
            take(browser, ASSETS / "index.png", INDEX, PHONE, "light")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            sizes = {"desktop": DESKTOP, "phone": PHONE}
            views = {
                "report": (REPORT, None),
                "panel": (REPORT, open_panel),
                "index": (INDEX, None),
            }
            for view, size, scheme in product(views, sizes, ("light", "dark")):
                page, act = views[view]
                file = folder / f"{view}-{size}-{scheme}.png"
                take(browser, file, page, sizes[size], scheme, act, full_page=act is None)
        browser.close()


def take(
    browser: Browser,
    file: Path,
    path: str,
    size: dict[str, int],
    scheme: str,
    act: Callable[[Page], None] | None = None,
    *,
    full_page: bool = False,
) -> None:
    """Open a page of the state store, do something with it, and save what the window shows."""
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.goto((STORE / path).as_uri())
    if act is not None:
        act(page)
    page.screenshot(path=file, full_page=full_page)
    page.close()


def open_panel(page: Page) -> None:
    """Open the panel of a model from its box in the lineage."""
    page.evaluate("document.getElementById('lineage').scrollIntoView()")
    page.locator(f"#lineage-picture [data-node='{MODEL}']").press("Enter")
    page.wait_for_selector("#panel[open] dl")


if __name__ == "__main__":
    main()
