"""What a person sees of a failed run in Prefect's own pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.browsers import log_in
from tests.support.project import Project, Scratch


def test_the_card_of_a_failed_node_can_be_read_in_prefect(
    browser: Any, project: Project, scratch: Scratch, tmp_path: Path
) -> None:
    scratch.model(
        "people",
        "{{ config(materialized='table') }}"
        "select 1 as id, 'ada@example.org' as email union all select 1, 'bob@example.org'",
    )
    scratch.model(
        "broken", "{{ config(materialized='table') }}select missing from {{ ref('people') }}"
    )
    scratch.model("behind", "select * from {{ ref('broken') }}")
    scratch.properties(
        models=[
            {
                "name": "people",
                "config": {"meta": {"owner": "people-team"}},
                "columns": [
                    {"name": "id", "data_tests": ["unique"]},
                    {"name": "email", "config": {"meta": {"pii": True}}},
                ],
            },
        ],
        exposures=[
            {
                "name": "board",
                "type": "dashboard",
                "owner": {"email": "board@example.org"},
                "depends_on": ["ref('behind')"],
            }
        ],
    )
    assert scratch.run_pipeline("--strategy", "build").returncode == 1
    run = project.last_run(scratch.target)
    texts = project.artifacts(run)
    (report,) = project.asked(
        "artifacts",
        artifacts={"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": ["scratch-report"]}},
    )

    page = browser.new_page(viewport={"width": 1280, "height": 2400})
    page.goto(f"{project.api_url.removesuffix('/api')}/artifacts/artifact/{report['id']}")
    log_in(page, project.auth_string)
    page.get_by_role("heading", name="on scratch: failed").wait_for(timeout=60_000)
    seen = page.locator("body").inner_text()
    page.screenshot(path=tmp_path / "report.png", full_page=True)

    for words in (
        "First cause",
        "unique_people_id",
        "people-team",
        "data",
        "Got 1 result, configured to fail if != 0",
        "cd dbt && uv run dbt test --target scratch --select scratch.unique_people_id",
        "board",
    ):
        assert words in seen, f"{words!r} cannot be read in:\n{seen}"
    for title in ("Timeline of the run", "Lineage of the run"):
        picture = page.locator(f"img[alt='{title}']")
        assert picture.evaluate("image => image.complete && image.naturalWidth > 100")
    page.close()
    for text in texts.values():
        assert "example.org" not in str(text).replace("board@example.org", "")
