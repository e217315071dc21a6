"""Record of a build (`build.json`), which `millrace pr compare` reads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from infrastructure.ci.pull_request.changes import Change
from prefect_flows.core.errors import ConfigurationError

BUILD, MANIFEST, COMPARISON = "build.json", "manifest.json", "comparison.json"
# Folder with production's manifest from the start of the build.
PRODUCTION = "production"

Outcome = Literal["passed", "failed", "refused", "nothing"]


class _RecordModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChangedNode(_RecordModel):
    """A model, seed or snapshot that the pull request changes, or that is downstream of a change.

    Attributes:
        parts: what differs: code, configuration, macros, …
        status: dbt's status; None for removed nodes and ephemeral models.
        usual_seconds: median over production's last runs; None if it never ran there.
        usual_bytes: bytes scanned by production's last run, if the warehouse reports them.
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


class Rows(_RecordModel):
    """Rows of a failed test, without the columns that may contain personal data."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    hidden_columns: Sequence[str] = ()
    note: str | None = None


class Failure(_RecordModel):
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


class Build(_RecordModel):
    """The result of building a pull request.

    Attributes:
        id: also stored in the schema's owner, so that `compare` detects a later build.
        version: commit that was built.
        tests: number of tests by status.
        breaks: name of a model → breaking changes of its contract.
        refused: why dbt refused to build.
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
    nodes: Sequence[ChangedNode] = ()
    tests: dict[str, int] = {}
    failures: Sequence[Failure] = ()
    contract_breaks: dict[str, Sequence[str]] = {}
    refusal: str | None = None

    def write(self, folder: Path) -> None:
        """Write the record to the build folder."""
        (folder / BUILD).write_text(self.model_dump_json(indent=1))

    @classmethod
    def read(cls, folder: Path, number: int, target: str) -> Build:
        """Read the record of the last finished build on this machine.

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
