"""The site, built once for the tests that look at it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import copy_of_the_project


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build --strict` in a copy of the project."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("site") / "millrace").folder
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / ".local" / "site"
