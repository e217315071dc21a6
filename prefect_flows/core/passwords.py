"""Finds and redacts passwords and tokens in URLs, in texts and in the parameters of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

HIDDEN = "***"
# `://user:PASSWORD@`. Digits and a slash after the colon are a port, even if the path has an `@`.
_IN_ADDRESS = re.compile(r"(://[^\s:/@]*:)(?!\d+/)\S+(?=@)")
_IN_QUERY = re.compile(
    r"([?&;](?:password|passwd|pwd|secret|token|api_?key|access_?key|signature|sig)=)[^&;\s]+",
    re.IGNORECASE,
)
# A key whose value is a secret: `password`, `DB_PASSWORD`, `crm_api_token`; not `token_count`.
_SECRET_KEY = re.compile(
    r"(?:^|[_.-])(?:password|passwd|pwd|secret|token|api_?key|access_?key|private_?key)$",
    re.IGNORECASE,
)


def redact_url(text: str) -> str:
    """Replace the password of each URL in a text with `***`."""
    return _IN_QUERY.sub(rf"\1{HIDDEN}", _IN_ADDRESS.sub(rf"\1{HIDDEN}", text))


def remove_login(url: str) -> str:
    """Return a URL without its user and password; any other URL or path as it is."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def has_password(text: str) -> bool:
    """Return whether a URL in the text has a password."""
    return redact_url(text) != text


def find_passwords(value: Any, place: str) -> Iterator[str]:
    """Yield the dotted path of each secret in a nested value: by its key, or in a URL."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if _is_secret(key, inner):
                yield f"{place}.{key}"
            else:
                yield from find_passwords(inner, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from find_passwords(inner, f"{place}.{index}")
    elif isinstance(value, str) and has_password(value):
        yield place


def redact(value: Any) -> Any:
    """Return a copy of a nested value with each secret that `find_passwords` finds as `***`."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if _is_secret(key, inner) else redact(inner) for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(inner) for inner in value]
    return redact_url(value) if isinstance(value, str) else value


def _is_secret(key: Any, value: Any) -> bool:
    return isinstance(value, str) and value != "" and bool(_SECRET_KEY.search(str(key)))
