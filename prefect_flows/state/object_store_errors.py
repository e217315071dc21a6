"""What the libraries of object stores raise, behind fsspec."""

from __future__ import annotations

import sys


def errors_of_stores() -> tuple[type[Exception], ...]:
    """What the libraries of object stores raise, for those that are loaded; each has its own."""
    errors: list[type[Exception]] = [OSError]
    for module, names in {
        "aiohttp": ["ClientError"],
        "botocore.exceptions": ["BotoCoreError", "ClientError"],
        "gcsfs.retry": ["HttpError"],
        "google.auth.exceptions": ["GoogleAuthError"],
    }.items():
        if module in sys.modules:
            errors += [getattr(sys.modules[module], name) for name in names]
    return tuple(errors)
