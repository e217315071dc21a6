"""Find where a YAML file of the dbt project describes a node or one of its columns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

# Lists of a properties file whose entries have a name.
LISTS = ("models", "sources", "seeds", "snapshots", "analyses", "data_tests", "tests")
# `yaml.CSafeLoader` composes nodes with their positions, ten times as fast as Python.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def find_entry(
    file: Path,
    name: str,
    column: str | None = None,
    table: str | None = None,
    words: tuple[str, ...] = (),
) -> tuple[int, int]:
    """Return line and column of the entry of a node or of its column, both from 1.

    Args:
        file: a properties file.
        name: name of the node, or of the source.
        column: name of the column.
        table: name of the source's table.
        words: keys or values in the entry, for example the name of a test. The position of the
            first that is found is returned.

    Returns:
        The position of the most exact entry that is found; (1, 1) if there is none.
    """
    root = _compose(file)
    place, found = (1, 1), None
    for entry in _entries(root, LISTS):
        if _get_name(entry) == name:
            place, found = _get_place(entry), entry
            break
    if found is not None and table is not None:
        place, found = _descend(found, "tables", table, place)
    if found is not None and column is not None:
        place, found = _descend(found, "columns", column, place)
    for word in filter(None, words):
        if found is not None and (at := _find_word(found, word)) is not None:
            return at
    return place


def _descend(
    entry: yaml.MappingNode, key: str, name: str, place: tuple[int, int]
) -> tuple[tuple[int, int], yaml.MappingNode | None]:
    for below in _entries(entry, (key,)):
        if _get_name(below).strip('"`').lower() == name.strip('"`').lower():
            return _get_place(below), below
    return place, None


@cache
def _compose(file: Path) -> yaml.Node | None:
    node: yaml.Node | None = yaml.compose(file.read_text(encoding="utf-8"), Loader=Loader)
    return node


def _entries(node: yaml.Node | None, keys: tuple[str, ...]) -> Iterator[yaml.MappingNode]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.value in keys and isinstance(value, yaml.SequenceNode):
            yield from (each for each in value.value if isinstance(each, yaml.MappingNode))


def _get_name(entry: yaml.MappingNode) -> str:
    return next((str(v.value) for k, v in entry.value if k.value == "name"), "")


def _get_place(entry: yaml.MappingNode) -> tuple[int, int]:
    """Return the position of the entry's name, or else of the entry."""
    named = next((value for key, value in entry.value if key.value == "name"), entry)
    return named.start_mark.line + 1, named.start_mark.column + 1


def _find_word(node: yaml.Node, word: str) -> tuple[int, int] | None:
    """Return the position of a scalar with a value, but not below the entry's columns."""
    if isinstance(node, yaml.ScalarNode):
        if node.value == word:
            return node.start_mark.line + 1, node.start_mark.column + 1
        return None
    for below in node.value:
        if isinstance(below, tuple):
            key, value = below
            if key.value in ("columns", "name") and isinstance(value, yaml.SequenceNode):
                continue
            found = _find_word(key, word) or _find_word(value, word)
        else:
            found = _find_word(below, word)
        if found is not None:
            return found
    return None
