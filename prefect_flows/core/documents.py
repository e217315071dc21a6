"""JSON and YAML that people write: read strictly, and each fault is a sentence.

What such a document holds may be a secret, so no sentence shows a value. Keys are shown.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

# More than anybody writes; aliases of YAML make them of a few lines.
MOST_NESTED, MOST_VALUES, MOST_DIGITS = 100, 200_000, 1_000
_SHOWN = 60
_UTF_8 = "save it as UTF-8"
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


class Unreadable(ValueError):
    """What is wrong with a document, in a sentence without its values."""


def decoded(data: bytes) -> str:
    """The text of a file.

    Raises:
        Unreadable: it is no UTF-8, or has a byte order mark.
    """
    # Its every other byte is zero where the text is Latin, without a mark too.
    if data.startswith(_WIDE) or (len(data) % 2 == 0 and b"\0" in data[:2]):
        raise Unreadable(
            f"it is UTF-16, as PowerShell's `>` writes it; {_UTF_8}: "
            "… | Out-File -Encoding utf8NoBOM FILE"
        )
    if data.startswith(codecs.BOM_UTF8):
        raise Unreadable(f"it begins with a byte order mark (BOM); {_UTF_8} without one")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(
            f"byte 0x{data[error.start]:02x} in line {line} is no UTF-8; {_UTF_8}"
        ) from None  # its object is the document


def read_text(file: Path) -> str:
    """The text of a file that a person wrote.

    Raises:
        OSError: it cannot be read.
        Unreadable: it is no UTF-8, or has a byte order mark.
    """
    return decoded(file.read_bytes())


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON document.

    Raises:
        Unreadable: it is none, has a key twice, or holds what cannot be kept.
    """
    text = decoded(text) if isinstance(text, bytes) else text
    if text.startswith("\ufeff"):
        raise Unreadable(f"it begins with a byte order mark (BOM); {_UTF_8} without one")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_int=_whole_number,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise Unreadable(f"not JSON: {error}") from None  # its document may hold a secret
    except RecursionError:
        raise Unreadable(_too_deep()) from None
    refuse_unkeepable(value)
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML document; none of an empty one.

    Raises:
        Unreadable: it is none, has a key twice, or holds what cannot be kept.
    """
    return parse_yaml_with_nodes(text)[1]


def parse_yaml_with_nodes(text: str) -> tuple[yaml.Node | None, Any]:
    """As `parse_yaml`, with the nodes, which know their lines."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        value = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise Unreadable(f"it is not YAML: {at}{error.problem}") from None  # it shows the line
    except yaml.reader.ReaderError as error:
        raise Unreadable(
            f"it is not YAML: character U+{_number_of(error):04X} is not allowed"
        ) from None
    except RecursionError:
        raise Unreadable(_too_deep()) from None
    except Unreadable:
        raise
    except (ValueError, OverflowError, KeyError, AttributeError, TypeError):
        # What PyYAML's constructors make of `2026-13-45`, `0x_` or `!!int x`.
        raise Unreadable("it is not YAML: a date or a number in it is none") from None
    refuse_unkeepable(value)
    return root, value


def _number_of(error: yaml.reader.ReaderError) -> int:
    """The number of the character that PyYAML's reader refuses."""
    return error.character if isinstance(error.character, int) else ord(error.character[:1])


class _Loader(yaml.SafeLoader):
    """YAML without keys that are there twice: the last of them would hide the others."""

    # The stubs give it another argument than PyYAML does.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (before := lines.setdefault((key.tag, key.value), line)) != line:
                raise Unreadable(
                    f"the key {_shown(key.value)} is there twice, in lines {before} and {line}"
                )
        return node


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Unreadable(f"the key {_shown(key)} is there twice")
        found[key] = value
    return found


def _whole_number(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise Unreadable(f"a number has {len(text):,} digits")
    return int(text)


def _refuse_constant(name: str) -> None:
    raise Unreadable(f"{name} is no value of JSON")


def refuse_unkeepable(document: Any) -> None:
    """Refuse what a later reader, an environment variable or a database cannot keep.

    Raises:
        Unreadable: there is such a value.
    """
    sizes: dict[int, int] = {}

    def size(value: Any, depth: int, path: str) -> int:
        if isinstance(value, str):
            _refuse_text(value, path)
        if isinstance(value, float) and not math.isfinite(value):
            raise Unreadable(f"{path}: no finite number")
        if isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
            raise Unreadable(f"{path}: a number of more than {MOST_DIGITS:,} digits")
        if not isinstance(value, (Mapping, list, tuple, set)):
            return 1
        if depth > MOST_NESTED:
            raise Unreadable(_too_deep())
        if id(value) not in sizes:
            # Until it is known: an alias of what it is in has no end.
            sizes[id(value)] = MOST_VALUES + 1
            items: Iterable[tuple[Any, Any]] = (
                value.items() if isinstance(value, Mapping) else enumerate(value)
            )
            total = 1
            for key, inner in items:
                shown = _shown(key)[1:-1] if isinstance(key, str) else str(key)[:_SHOWN]
                at = f"{path}.{shown}" if path else shown
                total += size(key, depth + 1, at) + size(inner, depth + 1, at)
            sizes[id(value)] = total
        if sizes[id(value)] > MOST_VALUES:
            raise Unreadable(f"it stands for more than {MOST_VALUES:,} values")
        return sizes[id(value)]

    size(document, 1, "")


def _refuse_text(value: str, path: str) -> None:
    at = f"{path}: " if path else ""
    if "\0" in value:
        raise Unreadable(f"{at}a text has a zero character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unreadable(
            f"{at}a text has half of a surrogate pair, which is no character"
        ) from None


def _too_deep() -> str:
    return f"it is nested more than {MOST_NESTED} deep"


def _shown(key: str) -> str:
    """A key on one line, cut; what is no character is shown as its number."""
    text = re.sub(r"\s+", " ", key).encode(errors="backslashreplace").decode()
    return f"'{text}'" if len(text) <= _SHOWN else f"'{text[:_SHOWN]}…'"
