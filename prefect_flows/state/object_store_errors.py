"""The exceptions of object store libraries (gcsfs, s3fs) that fsspec does not wrap."""

from __future__ import annotations

import sys


def object_store_errors() -> tuple[type[Exception], ...]:
    """Return the exception classes of the object store libraries that are loaded, and `OSError`."""
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
