"""Fixtures of the tests of `millrace check models`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.project import REPOSITORY


@pytest.fixture(scope="session")
def analyzer_cache() -> Path:
    """The compiled analyzer of this clone; git ignores the folder."""
    cache = REPOSITORY / ".local" / "zetasql"
    cache.mkdir(parents=True, exist_ok=True)
    return cache
