"""Parse and edit CHANGELOG.md in the format of Keep a Changelog.

A section begins with `## [VERSION] - DATE`, or `## [Unreleased]`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from prefect_flows.core.errors import ConfigurationError

FILE = "CHANGELOG.md"
UNRELEASED = "Unreleased"
_HEADING = re.compile(r"^## \[(?P<name>[^\]]+)\](?: - (?P<date>\S+))?[^\S\n]*$", re.MULTILINE)
_ENTRY = re.compile(r"^[-*] ", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A section of the changelog.

    Attributes:
        name: the version, or `Unreleased`.
        day: date in the heading, if any.
        text: text without the heading, stripped.
        start: offset of the heading in the file.
    """

    name: str
    day: str | None
    text: str
    start: int

    @property
    def has_text(self) -> bool:
        """Whether there is at least one list entry, and not only headings."""
        return _ENTRY.search(self.text) is not None


def parse_sections(changelog: str) -> list[Section]:
    """Parse all sections, in the order of the file."""
    found = list(_HEADING.finditer(changelog))
    ends = [*(heading.start() for heading in found), len(changelog)][1:]
    return [
        Section(
            name=heading["name"],
            day=heading["date"],
            text=changelog[heading.end() : end].strip(),
            start=heading.start(),
        )
        for heading, end in zip(found, ends, strict=True)
    ]


def get_section(changelog: str, name: str) -> Section:
    """Return the section of a version, or `Unreleased`.

    Raises:
        ConfigurationError: there is no such section, or it is empty.
    """
    all_sections = parse_sections(changelog)
    found = [section for section in all_sections if section.name == name]
    if len(found) != 1:
        names = ", ".join(section.name for section in all_sections) or "none"
        raise ConfigurationError(
            f"There are {len(found)} sections [{name}]; the sections are: {names}.",
            where=FILE,
            fix=f"have one section that begins with: ## [{name}]",
        )
    if not found[0].has_text:
        raise ConfigurationError(
            f"The section [{name}] says nothing: a release that changes nothing is none.",
            where=FILE,
            fix=f"write below ## [{name}] what is different for those who use it, as a list",
        )
    return found[0]


def release_section(changelog: str, version: str, day: date) -> str:
    """Return the changelog with the unreleased section renamed to a version.

    Raises:
        ConfigurationError: the unreleased section is empty, or the version already has a section.
    """
    unreleased = get_section(changelog, UNRELEASED)
    if any(section.name == version for section in parse_sections(changelog)):
        raise ConfigurationError(
            f"The section [{version}] is there already.",
            where=FILE,
            fix="release a later version, or take that section out",
        )
    heading = f"## [{UNRELEASED}]\n\n## [{version}] - {day.isoformat()}\n\n"
    after = changelog[unreleased.start :].split("\n", 1)[1].lstrip("\n")
    return changelog[: unreleased.start] + heading + after
