"""What mkdocs does not do by itself: decisions are listed, and files of the repository are named.

mkdocs calls these functions; see `hooks` in mkdocs.yml.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

DECISIONS = "decisions"
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<path>\.\.?/[^)#\s]*)(?:#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the decision records into the navigation, in the order of their numbers."""
    folder = Path(config.docs_dir) / DECISIONS
    records = [f"{DECISIONS}/{file.name}" for file in sorted(folder.glob("*.md"))]
    for entry in config.nav or []:
        if entry == {"Decisions": DECISIONS}:
            entry["Decisions"] = records
    return config


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Name a file of the repository where a link leads out of documentation/.

    On GitHub it is a link; a site that is opened from a folder has nowhere to lead it to.

    Raises:
        PluginError: the file does not exist.
    """
    pages = Path(config.docs_dir).resolve()
    here = (pages / page.file.src_uri).parent

    def named(link: re.Match[str]) -> str:
        file = (here / link["path"]).resolve()
        if file.is_relative_to(pages):
            return link[0]
        if not file.exists():
            raise PluginError(
                f"{page.file.src_uri}: the link to {link['path']} leads to no file; correct it"
            )
        path = f"`{file.relative_to(pages.parent)}`"
        text = link["text"]
        return path if text.strip("`") in path else f"{text} ({path})"

    return LINK.sub(named, markdown)
