"""Validation of the state store URL, and its display without a login."""

from __future__ import annotations

import re
from collections.abc import Iterator

# fsspec's other file systems are read-only, cannot replace a file atomically, or raise exceptions
# that the store does not recognize.
SCHEMES = frozenset({"file", "gs", "gcs", "s3"})
KINDS = "a folder, gs://bucket/folder or s3://bucket/folder"
# The `Secret` block with the login of a bucket.
LOGIN_BLOCK = "state-store-login"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_BUCKET = re.compile(r"(?!.*//)[A-Za-z0-9][A-Za-z0-9._-]{1,220}[A-Za-z0-9](/[^?#]*)?")
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]\w*\}?|%[A-Za-z_]\w*%")


def find_url_fault(url: str) -> str | None:
    """Return what is wrong with the URL of a state store; None if nothing is.

    The text shows only the scheme or the name of a variable, because the rest of the URL may be a
    login.
    """
    return next(_faults(url), None)


def _faults(url: str) -> Iterator[str]:
    """Yield faults; each check expects that the checks before it found nothing."""
    if not url.isprintable() or url != url.strip() or not url:
        yield "its URL is empty, has a blank at an end, or a character that cannot be printed"
    scheme, separator, rest = url.partition("://")
    if separator and "@" in rest:
        yield "its URL holds a login (or an @), and would be stored and shown with it"
    if (variable := _VARIABLE.search(url)) is not None:
        yield f"nothing put a value in place of {variable[0]} in its URL"
    if not separator:
        if (found := _SCHEME.match(url)) is not None:
            yield f"{found[0]} begins a URL, and no :// follows"
        return
    if scheme not in SCHEMES:
        kind = f"{scheme}://" if _SCHEME.fullmatch(f"{scheme}:") else "its URL"
        yield f"{kind} is not a kind of state store"
    elif scheme == "file":
        if not rest.startswith("/"):
            yield "the path after file:// must begin with /"
    elif not _BUCKET.fullmatch(rest):
        yield (
            f"the part after {scheme}:// must be the name of a bucket, and a path without ?, # "
            "and //"
        )


def get_url_fix(url: str) -> str:
    """Return what fixes a URL with a fault."""
    if "://" in url and "@" in url:
        return (
            f"take the login out of the URL ({KINDS}), and give it to the block "
            f"{LOGIN_BLOCK}: uv run millrace secret {LOGIN_BLOCK} < FILE; "
            "then change it where it was used: it may be in logs already"
        )
    return f"write {KINDS}"


def without_login(url: str) -> str:
    """Return the URL without its login and its query, for display."""
    return re.sub(r"(?<=://).*@", "***@", url).partition("?")[0]
