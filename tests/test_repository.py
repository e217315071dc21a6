"""What the repository promises about itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import REPOSITORY


@pytest.mark.parametrize(
    "module",
    [
        "prefect_flows.pipeline",
        pytest.param("prefect_flows.sources.nyc__flights.flow", marks=pytest.mark.example),
        "infrastructure.setup_profiles.__main__",
        "infrastructure.local.command",
        "infrastructure.cli",
        "infrastructure.local.quickstart",
    ],
)
def test_importing_reads_no_environment_and_leaves_nothing(module: str, tmp_path: Path) -> None:
    """Settings that are wrong do no harm until a command builds them."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin",
            "HOME": str(tmp_path),
            "MILLRACE_STAGES__DBT_RUN__RETRIES": "wrong",
            "MILLRACE_UNKNOWN": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # Prefect makes its own home when it is imported.
    assert {path.name for path in tmp_path.iterdir()} <= {".prefect"}


def test_the_runtime_never_imports_infrastructure() -> None:
    importing = re.compile(r"^\s*(from|import) infrastructure\b", re.MULTILINE)
    found = [
        str(file) for file in (REPOSITORY / "prefect_flows").rglob("*.py")
        if importing.search(file.read_text())
    ]  # fmt: skip
    assert found == []


def test_one_module_imports_the_deprecated_classes() -> None:
    files = [*REPOSITORY.joinpath("prefect_flows").rglob("*.py"),
             *REPOSITORY.joinpath("infrastructure").rglob("*.py")]  # fmt: skip
    found = [
        str(file.relative_to(REPOSITORY))
        for file in files
        if "prefect_dbt.cli." in file.read_text()
    ]
    assert found == ["infrastructure/setup_profiles/block_resources.py"]


def test_the_source_of_the_package_is_not_called_dbt() -> None:
    """A folder `dbt/` with an __init__.py would hide the real package."""
    assert not list((REPOSITORY / "dbt").rglob("__init__.py"))


def test_every_room_imports_downwards_only_and_without_cycles() -> None:
    """`[tool.importlinter]` of pyproject.toml says which room may import which."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
