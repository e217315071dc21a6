"""What a build leaves behind for the comparison: plain data, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from infrastructure.ci.pull_request.changes import Change
from prefect_flows.core.errors import ConfigurationError

BUILD, MANIFEST, COMPARISON = "build.json", "manifest.json", "comparison.json"
# Folder of the manifest of production, as it was when the build began.
PRODUCTION = "production"

Outcome = Literal["passed", "failed", "refused", "nothing"]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Built(_Plain):
    """A model, seed or snapshot that differs from production, or depends on one that does.

    Attributes:
        parts: what of it differs: code, configuration, macros, …
        status: dbt's; none of what was removed, and of ephemeral models.
        usual_seconds: the median of production's last runs; none where it never ran there.
        usual_bytes: bytes that production's last run of it read, where the warehouse says so.
    """

    unique_id: str
    change: Change
    parts: Sequence[str] = ()
    status: str | None = None
    seconds: float = 0.0
    usual_seconds: float | None = None
    bytes: int | None = None
    usual_bytes: int | None = None
    slot_seconds: float | None = None


class Rows(_Plain):
    """Rows of a failed test, without the columns that may hold personal data."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    hidden_columns: Sequence[str] = ()
    note: str | None = None


class Failure(_Plain):
    """A node that failed."""

    unique_id: str
    name: str
    resource_type: str
    status: str
    path: str
    owner: str | None
    message: str | None
    failures: int | None
    rows: Rows | None


class Build(_Plain):
    """A build of a pull request.

    Attributes:
        id: also in the mark of the schema, so that a comparison sees what was compared.
        version: the commit that was built.
        tests: number of tests by status.
        breaks: name of a model → what of its contract is broken.
        refused: why dbt would build nothing.
    """

    id: str
    number: int
    target: str
    production: str
    warehouse: str
    schema_name: str
    version: str
    repository: str | None
    started_at: datetime
    seconds: float
    outcome: Outcome
    built: Sequence[Built] = ()
    tests: dict[str, int] = {}
    failures: Sequence[Failure] = ()
    breaks: dict[str, Sequence[str]] = {}
    refused: str | None = None

    def write(self, folder: Path) -> None:
        """Write it beside the manifests."""
        (folder / BUILD).write_text(self.model_dump_json(indent=1))

    @classmethod
    def read(cls, folder: Path, number: int, target: str) -> Build:
        """The last build that ended on this machine.

        Raises:
            ConfigurationError: there is none.
        """
        file = folder / BUILD
        command = f"uv run millrace pr build --number {number} --target {target} --production NAME"
        if not file.exists():
            raise ConfigurationError(
                f"Pull request {number} was not built on this machine, or its build did not end.",
                where=str(file),
                fix=f"build it: {command}",
            )
        return cls.model_validate_json(file.read_text())
