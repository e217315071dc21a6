"""Strict parsers for JSON and YAML that people write, with one-sentence error messages.

A document may hold secrets, so messages show its keys but never its values.
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

from prefect_flows.core.formatting import truncate

# A few lines of YAML aliases can stand for millions of values.
MAX_DEPTH, MAX_VALUES, MAX_DIGITS = 100, 200_000, 1_000
_MAX_KEY = 60
_UTF_8 = "save it as UTF-8"
_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


class DocumentError(ValueError):
    """A document cannot be read; the message says why, without showing values."""


def decode_utf8(data: bytes) -> str:
    """Decode UTF-8 bytes.

    Raises:
        DocumentError: the data is not UTF-8, or begins with a byte order mark.
    """
    # UTF-16 without a byte order mark: every other byte of Latin text is zero.
    if data.startswith(_WIDE_BOMS) or (len(data) % 2 == 0 and b"\0" in data[:2]):
        raise DocumentError(
            f"it is UTF-16, as PowerShell's `>` writes it; {_UTF_8}: "
            "… | Out-File -Encoding utf8NoBOM FILE"
        )
    if data.startswith(codecs.BOM_UTF8):
        raise DocumentError(f"it begins with a byte order mark (BOM); {_UTF_8} without one")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError(
            f"byte 0x{data[error.start]:02x} in line {line} is not UTF-8; {_UTF_8}"
        ) from None  # the original error holds the document


def read_text(file: Path) -> str:
    """Read a text file that a person wrote.

    Raises:
        OSError: the file cannot be read.
        DocumentError: the file is not UTF-8, or begins with a byte order mark.
    """
    return decode_utf8(file.read_bytes())


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON document.

    Raises:
        DocumentError: the text is not JSON, has a duplicate key, or `check_storable` refuses it.
    """
    text = decode_utf8(text) if isinstance(text, bytes) else text
    if text.startswith("\ufeff"):
        raise DocumentError(f"it begins with a byte order mark (BOM); {_UTF_8} without one")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_dict_of_unique_keys,
            parse_int=_parse_int,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise DocumentError(f"not JSON: {error}") from None  # the original error holds the document
    except RecursionError:
        raise DocumentError(_too_deep_message()) from None
    check_storable(value)
    return value


def parse_json_or_yaml(text: str) -> Any:
    """Parse a value of a command line, for example of dbt's `--vars`: JSON, or else YAML.

    Raises:
        DocumentError: see `parse_yaml`.
    """
    try:
        return parse_json(text)
    except DocumentError:
        # YAML alone would not do: it reads the number `1e5` of JSON as text.
        return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """Parse a YAML document; None if it is empty.

    Raises:
        DocumentError: the text is not YAML, has a duplicate key, or `check_storable` refuses it.
    """
    return parse_yaml_with_nodes(text)[1]


def parse_yaml_with_nodes(text: str) -> tuple[yaml.Node | None, Any]:
    """Do the same as `parse_yaml`, and also return the root node, which has line numbers."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        value = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise DocumentError(f"it is not YAML: {at}{error.problem}") from None  # it quotes the line
    except yaml.reader.ReaderError as error:
        raise DocumentError(
            f"it is not YAML: character U+{_code_point(error):04X} is not allowed"
        ) from None
    except RecursionError:
        raise DocumentError(_too_deep_message()) from None
    except DocumentError:
        raise
    except (ValueError, OverflowError, KeyError, AttributeError, TypeError):
        # PyYAML's constructors raise these for `2026-13-45`, `0x_` or `!!int x`.
        raise DocumentError("it is not YAML: invalid date or number") from None
    check_storable(value)
    return root, value


def _code_point(error: yaml.reader.ReaderError) -> int:
    """Return the code point of the character that PyYAML's reader refuses."""
    return error.character if isinstance(error.character, int) else ord(error.character[:1])


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses duplicate keys, of which PyYAML would keep the last."""

    # The type stubs name another argument than PyYAML has.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (before := lines.setdefault((key.tag, key.value), line)) != line:
                raise DocumentError(
                    f"the key {_format_key(key.value)} is duplicated, in lines {before} and {line}"
                )
        return node


def _dict_of_unique_keys(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DocumentError(f"the key {_format_key(key)} is duplicated")
        found[key] = value
    return found


def _parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise DocumentError(f"a number has {len(text):,} digits")
    return int(text)


def _refuse_constant(name: str) -> None:
    raise DocumentError(f"{name} is not a JSON value")


def check_storable(document: Any) -> None:
    """Refuse values that an environment variable, a database or another parser cannot hold.

    Raises:
        DocumentError: a number is not finite or too long, a text has a zero character or a lone
            surrogate, or the document is too deep or too large.
    """
    sizes: dict[int, int] = {}

    def size(value: Any, depth: int, path: str) -> int:
        if isinstance(value, str):
            _refuse_invalid_text(value, path)
        if isinstance(value, float) and not math.isfinite(value):
            raise DocumentError(f"{path}: no finite number")
        if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
            raise DocumentError(f"{path}: a number of more than {MAX_DIGITS:,} digits")
        if not isinstance(value, (Mapping, list, tuple, set)):
            return 1
        if depth > MAX_DEPTH:
            raise DocumentError(_too_deep_message())
        if id(value) not in sizes:
            # Until its size is known: a YAML alias inside itself would recurse without end.
            sizes[id(value)] = MAX_VALUES + 1
            items: Iterable[tuple[Any, Any]] = (
                value.items() if isinstance(value, Mapping) else enumerate(value)
            )
            total = 1
            for key, inner in items:
                shown = _format_key(key)[1:-1] if isinstance(key, str) else str(key)[:_MAX_KEY]
                at = f"{path}.{shown}" if path else shown
                total += size(key, depth + 1, at) + size(inner, depth + 1, at)
            sizes[id(value)] = total
        if sizes[id(value)] > MAX_VALUES:
            raise DocumentError(f"it stands for more than {MAX_VALUES:,} values")
        return sizes[id(value)]

    size(document, 1, "")


def _refuse_invalid_text(value: str, path: str) -> None:
    at = f"{path}: " if path else ""
    if "\0" in value:
        raise DocumentError(f"{at}a text has a zero character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DocumentError(
            f"{at}a text has half of a surrogate pair, which is not a character"
        ) from None


def _too_deep_message() -> str:
    return f"it is nested more than {MAX_DEPTH} deep"


def _format_key(key: str) -> str:
    """Format a key for a message: quoted, on one line, at most `_MAX_KEY` long."""
    text = re.sub(r"\s+", " ", key).encode(errors="backslashreplace").decode()
    return f"'{truncate(text, _MAX_KEY)}'"
