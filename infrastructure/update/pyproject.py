"""Merge pyproject.toml: a team adds dependencies and its version, `.ci/pins` writes the pins."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from infrastructure.delivery.release.version import parse, set_version
from prefect_flows.core import git
from prefect_flows.core.temporary_folders import private_folder

_PINS = re.compile(r"(?<=\n)    # BEGIN (build )?pins\b.*?\n    # END (?:build )?pins\n", re.DOTALL)
_ITEM = re.compile(r'^    "(?P<name>[\w.-]+).*",')
_LIST = re.compile(r"^(?P<key>[\w-]+) = \[$")


def merge_pyproject(base: str, ours: str, theirs: str) -> str | None:
    """Merge three texts of the file; return None if both sides changed the same lines.

    The version is that of the clone, if it has one of its own. So are pins that only the clone
    changed; the others are the release's. Where both sides add a dependency, git finds a conflict:
    those of the clone are then put at the end of their list.
    """
    pins = _merge_pins(base, ours, theirs)
    versions = [tomllib.loads(text)["project"]["version"] for text in (base, ours, theirs)]
    version = parse(versions[2] if versions[1] == versions[0] else versions[1], where="version")
    base, ours, theirs = (
        set_version(_PINS.sub(lambda found: pins.get(found[1], found[0]), text), version)
        for text in (base, ours, theirs)
    )
    if (merged := _merge_texts(base, ours, theirs)) is not None:
        return merged
    added = _find_added(base, ours)
    lines = ours.splitlines(keepends=True)
    numbers = {number for found in added.values() for number in found}
    rest = "".join(line for number, line in enumerate(lines) if number not in numbers)
    merged = _merge_texts(base, rest, theirs)
    if merged is None:
        return None
    names = {(place, name) for _, place, name in _read_items(merged)}
    for (place, name), found in added.items():
        if (place, name) not in names:
            merged = _append(merged, place, "".join(lines[number] for number in found))
    return merged


def _merge_pins(*texts: str) -> Mapping[str | None, str]:
    """Merge the pins of each block, package by package; the release's win."""
    sides = [{found[1]: found[0] for found in _PINS.finditer(text)} for text in texts]
    merged = {}
    for kind, block in sides[2].items():
        base, ours, theirs = (_read_pins(side.get(kind, "")) for side in sides)
        pins = [
            line
            for name in sorted(ours.keys() | theirs.keys())
            for line in (ours if theirs.get(name) == base.get(name) else theirs).get(name, ())
        ]
        first, *_, last = block.splitlines(keepends=True)
        merged[kind] = "".join([first, *pins, last])
    return merged


def _read_pins(block: str) -> Mapping[str, list[str]]:
    """Return name → lines; a package has several if its version depends on the system."""
    pins: dict[str, list[str]] = defaultdict(list)
    for line in block.splitlines(keepends=True)[1:-1]:
        pins[line.partition("==")[0]].append(line)
    return pins


def _read_items(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield number of the line, list and name of each requirement that has a line of its own."""
    table = place = ""
    for number, line in enumerate(text.splitlines()):
        if line.startswith("["):
            table = line
        elif found := _LIST.match(line):
            place = f"{table} {found['key']}"
        elif line.startswith("]"):
            place = ""
        elif place and (found := _ITEM.match(line)):
            yield number, place, re.sub(r"[-_.]+", "-", found["name"]).lower()


def _find_added(base: str, ours: str) -> Mapping[tuple[str, str], list[int]]:
    """Return (list, name) → lines, with the comment above, of requirements that are not in base."""
    known = {(place, name) for _, place, name in _read_items(base)}
    lines, known_lines = ours.splitlines(), set(base.splitlines())
    added: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, place, name in _read_items(ours):
        if (place, name) in known:
            continue
        first = number
        while lines[first - 1].startswith("    #") and lines[first - 1] not in known_lines:
            first -= 1
        added[place, name] += range(first, number + 1)
    return added


def _append(text: str, place: str, item: str) -> str:
    """Add lines at the end of a list."""
    table, _, key = place.rpartition(" ")
    start = text.index(f"\n{key} = [\n", text.index(f"{table}\n"))
    end = text.index("\n]", start) + 1
    return text[:end] + item + text[end:]


def _merge_texts(base: str, ours: str, theirs: str) -> str | None:
    with private_folder("update") as folder:
        for name, text in (("base", base), ("ours", ours), ("theirs", theirs)):
            Path(folder, name).write_text(text)
        try:
            return git.run(folder, "merge-file", "--stdout", "ours", "base", "theirs")
        except git.GitError:  # its exit code is the number of conflicts
            return None
