"""Dagster, Airflow and SQLMesh, each with dbt in a virtual environment of its own.

The versions are pinned; dbt is the one of this environment. `uv` installs them from the index that
it is configured with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ground import BenchmarkError

DBT = [f"{name}=={version(name)}" for name in ("dbt-core", "dbt-postgres")]
# See `exclude-dependencies` in pyproject.toml.
NOT_INSTALLED = "dbt-core-experimental-parser ; sys_platform == 'never'\n"


@dataclass(frozen=True)
class Peer:
    """A tool and its dbt integration, as requirements."""

    name: str
    requirements: tuple[str, ...]

    def environment(self, work: Path) -> Path:
        """Its virtual environment."""
        return work / "peers" / self.name

    def bin(self, work: Path) -> Path:
        """The folder of its commands."""
        return self.environment(work) / "bin"

    def install(self, work: Path) -> None:
        """Make the virtual environment, unless an earlier benchmark in this folder did.

        Raises:
            BenchmarkError: it does not install; the message is uv's.
        """
        done = self.environment(work) / "installed"
        if done.exists():
            return
        done.parent.parent.mkdir(exist_ok=True)
        overrides = done.parent.parent / "overrides.txt"
        overrides.write_text(NOT_INSTALLED)
        self._uv(work, "venv", "--clear", "--python", sys.executable, str(done.parent))
        self._uv(
            work, "pip", "install", "--compile-bytecode", "--override", str(overrides),
            *self.requirements, *DBT,
        )  # fmt: skip
        done.touch()

    def _uv(self, work: Path, *arguments: str) -> None:
        environment = os.environ | {"VIRTUAL_ENV": str(self.environment(work))}
        done = subprocess.run(
            ["uv", *arguments], cwd=work, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            last = " ".join(done.stderr.split())[-300:]
            raise BenchmarkError(f"does not install: {last}")


DAGSTER = Peer("dagster", ("dagster==1.13.27", "dagster-dbt==0.29.27"))
AIRFLOW = Peer("airflow", ("apache-airflow==3.3.2", "astronomer-cosmos==1.15.1"))
# time-machine moves the clock, so that a schedule is due.
SQLMESH = Peer("sqlmesh", ("sqlmesh[postgres]==0.236.4", "time-machine==3.6.0"))
PEERS = (DAGSTER, AIRFLOW, SQLMESH)
