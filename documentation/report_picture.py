"""Takes the picture of a run report that the README shows.

    uv run quickstart && uv run python documentation/report_picture.py

Needs Chromium on the PATH.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / ".local" / "state" / "targets" / "dev" / "report.html"
PICTURE = ROOT / "documentation" / "assets" / "report.png"
SIZE = {"width": 1100, "height": 620}


def main() -> None:
    """Open the report of the target `dev` and save what fits into the window."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Chromium is not on the PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(REPORT.as_uri())
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
