"""The site out of documentation/: strict, offline, and read where its links lead."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.project import REPOSITORY, copy_of_the_project
from tests.support.sites import build

pytestmark = pytest.mark.docs


class Loads(HTMLParser):
    """Addresses that a browser fetches by itself, and not because somebody follows them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag != "a":
            self.found += [attributes.get("src") or "", attributes.get("href") or ""]


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        far = [url for url in Loads(page.read_text()).found if re.match(r"(https?:)?//", url)]
        assert far == [], page


def test_search_knows_the_pages_without_a_server(site: Path) -> None:
    # The offline plugin's form: a script, which a page that is opened as a file may load.
    index = (site / "search" / "search_index.js").read_text()
    assert "Commands" in index
    assert "millrace backup create" in index


def test_links_out_of_the_documentation_name_their_file(site: Path) -> None:
    text = (site / "containers.html").read_text()
    assert "<code>infrastructure/platforms/docker/entrypoint</code>" in text
    assert 'href="../infrastructure' not in text


FAULTS = {
    "a page that is nowhere in the navigation": (
        "documentation/forgotten.md", "# Forgotten\n",
        r"not included in the \"nav\" configuration:\n\s+- forgotten.md",
    ),
    "a link to no page": (
        "documentation/operating.md", "[there](nowhere.md)\n",
        r"operating.md.* contains a link 'nowhere.md', but the target is not found",
    ),
    "a link to no heading": (
        "documentation/operating.md", "[there](delivery.md#nowhere)\n",
        r"operating.md.* link 'delivery.md#nowhere', but .* does not contain an anchor",
    ),
    "a link from the root of a host": (
        "documentation/operating.md", "[there](/delivery.md)\n",
        r"operating.md.* contains an absolute link '/delivery.md'",
    ),
    "a link to no file of the repository": (
        "documentation/operating.md", "[there](../prefect_flows/nowhere.py)\n",
        r"operating.md: the link to ../prefect_flows/nowhere.py leads to no file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_leads_nowhere_ends_the_build(fault: str, tmp_path: Path) -> None:
    file, text, said = FAULTS[fault]
    folder = copy_of_the_project(tmp_path / "millrace").folder
    with (folder / file).open("a") as page:
        page.write(text)
    done = build(folder)
    assert done.returncode == 1
    assert re.search(said, done.stdout + done.stderr), done.stdout + done.stderr


def test_every_page_of_the_repository_is_read_on_github_too() -> None:
    """Relative links, which GitHub resolves against the file's own folder."""
    for page in [REPOSITORY / "README.md", *(REPOSITORY / "documentation").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if not re.match(r"[a-z]+:", link):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
