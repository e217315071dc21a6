"""Semantic versions: parse MAJOR.MINOR.PATCH, bump it, read and write it in pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from prefect_flows.core.errors import ConfigurationError

_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_LINE = re.compile(r'^version = "[^"]*"$', re.MULTILINE)


class Part(StrEnum):
    """Part of the version to raise. Before 1.0.0, a minor version may break compatibility."""

    MAJOR = "major"
    MINOR = "minor"
    PATCH = "patch"


@dataclass(frozen=True, order=True)
class Version:
    """A semantic version of the project."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def tag(self) -> str:
        """Git tag and image tag of the version."""
        return f"v{self}"

    def next(self, part: Part) -> Version:
        """Return the version with one part raised."""
        if part is Part.MAJOR:
            return Version(self.major + 1, 0, 0)
        if part is Part.MINOR:
            return Version(self.major, self.minor + 1, 0)
        return Version(self.major, self.minor, self.patch + 1)


def parse(text: str, *, where: str) -> Version:
    """Parse a version, with or without the `v` of its tag.

    Raises:
        ConfigurationError: the text is not MAJOR.MINOR.PATCH.
    """
    found = _VERSION.fullmatch(text.removeprefix("v"))
    if found is None:
        raise ConfigurationError(
            f"{text!r} is not a semantic version.",
            where=where,
            fix="write MAJOR.MINOR.PATCH, for example 1.4.0 (https://semver.org)",
        )
    return Version(*(int(number) for number in found.groups()))


def read_version(file: Path) -> Version:
    """Read the version from pyproject.toml."""
    return parse(tomllib.loads(file.read_text())["project"]["version"], where=file.name)


def set_version(pyproject: str, version: Version) -> str:
    """Return the text of pyproject.toml with another version."""
    text, count = _LINE.subn(f'version = "{version}"', pyproject)
    if count != 1 or tomllib.loads(text)["project"]["version"] != str(version):
        raise ConfigurationError(
            f"The project's version stands on {count} lines of its own.",
            where="pyproject.toml",
            fix='have one line: version = "MAJOR.MINOR.PATCH"',
        )
    return text
