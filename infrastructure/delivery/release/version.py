"""Semantic versions: MAJOR.MINOR.PATCH, the tag of each, and the one that comes after."""

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
    """What a release raises. Before 1.0.0 a minor version may break what was there."""

    MAJOR = "major"
    MINOR = "minor"
    PATCH = "patch"


@dataclass(frozen=True, order=True)
class Version:
    """A version of the project."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def tag(self) -> str:
        """What git and the image's registry call it."""
        return f"v{self}"

    def next(self, part: Part) -> Version:
        """The version after this one."""
        if part is Part.MAJOR:
            return Version(self.major + 1, 0, 0)
        if part is Part.MINOR:
            return Version(self.major, self.minor + 1, 0)
        return Version(self.major, self.minor, self.patch + 1)


def parse(text: str, *, where: str) -> Version:
    """A version as it is written, with or without the `v` of its tag.

    Raises:
        ConfigurationError: it is no MAJOR.MINOR.PATCH.
    """
    found = _VERSION.fullmatch(text.removeprefix("v"))
    if found is None:
        raise ConfigurationError(
            f"{text!r} is no semantic version.",
            where=where,
            fix="write MAJOR.MINOR.PATCH, for example 1.4.0 (https://semver.org)",
        )
    return Version(*(int(number) for number in found.groups()))


def of_project(file: Path) -> Version:
    """The version in pyproject.toml."""
    return parse(tomllib.loads(file.read_text())["project"]["version"], where=file.name)


def written(pyproject: str, version: Version) -> str:
    """The text of pyproject.toml with another version, and nothing else different."""
    text, count = _LINE.subn(f'version = "{version}"', pyproject)
    if count != 1 or tomllib.loads(text)["project"]["version"] != str(version):
        raise ConfigurationError(
            f"The project's version stands on {count} lines of its own.",
            where="pyproject.toml",
            fix='have one line: version = "MAJOR.MINOR.PATCH"',
        )
    return text
