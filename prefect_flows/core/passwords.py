"""Passwords within texts that others can read: found in what a run is given, and left out of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "***"
# `://user:PASSWORD@`. Digits and a slash behind the colon are a port, whatever stands in the path.
_IN_ADDRESS = re.compile(r"(://[^\s:/@]*:)(?!\d+/)\S+(?=@)")
_IN_QUERY = re.compile(
    r"([?&;](?:password|passwd|pwd|secret|token|api_?key|access_?key|signature|sig)=)[^&;\s]+",
    re.IGNORECASE,
)


def without_passwords(text: str) -> str:
    """The text with `***` in place of each password of a URL."""
    return _IN_QUERY.sub(rf"\1{HIDDEN}", _IN_ADDRESS.sub(rf"\1{HIDDEN}", text))


def has_password(text: str) -> bool:
    """Whether a URL in the text has a password."""
    return without_passwords(text) != text


def places_of_passwords(value: Any, place: str) -> Iterator[str]:
    """Where URLs with a password are, as dotted paths."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from places_of_passwords(inner, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from places_of_passwords(inner, f"{place}.{index}")
    elif isinstance(value, str) and has_password(value):
        yield place


def redacted(value: Any) -> Any:
    """The value, nested ones included, without the passwords of its URLs."""
    if isinstance(value, Mapping):
        return {key: redacted(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(inner) for inner in value]
    return without_passwords(value) if isinstance(value, str) else value
