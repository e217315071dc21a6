"""Parameters of a pipeline run, and the dbt commands and resource types of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_flows.core.date_window import DateWindow
from prefect_flows.core.names import TargetName
from prefect_flows.core.settings import Stage

Strategy = Literal["run_then_test", "build"]

# Stage → dbt command, and the resource types that it runs. Freshness comes first.
FRESHNESS = (["source", "freshness"], ("source",))
RUN_THEN_TEST = {
    "seed": (["seed"], ("seed",)),
    "snapshot": (["snapshot"], ("snapshot",)),
    "run": (["run"], ("model",)),
    "test": (["test"], ("test", "unit_test")),
}
# Runs models and snapshots in the order of the graph, for snapshots that read models.
RUN_WITH_SNAPSHOTS = ["build", "--resource-type", "model", "--resource-type", "snapshot"]
BUILD_RESOURCE_TYPES = (
    "seed",
    "snapshot",
    "model",
    "test",
    "unit_test",
    "function",
    "saved_query",
    "exposure",
)
DBT_STAGES: Mapping[str, Mapping[str, tuple[list[str], tuple[str, ...]]]] = {
    "run_then_test": RUN_THEN_TEST,
    "build": {"build": (["build"], BUILD_RESOURCE_TYPES)},
}
# Stage → the resource types that `skip` excludes.
STAGE_RESOURCE_TYPES: dict[Stage, tuple[str, ...]] = {
    "seed": ("seed",),
    "snapshot": ("snapshot",),
    "run": ("model",),
    "test": ("test", "unit_test"),
}

# Stages that accept `--full-refresh`, and those that accept `--event-time-start` and `…-end`.
FULL_REFRESH_STAGES = frozenset({"seed", "run", "build"})
EVENT_TIME_STAGES = frozenset({"run", "build"})
# Stages that accept `--empty`, and those that accept `--sample`.
EMPTY_STAGES = frozenset({"seed", "snapshot", "run", "build"})
SAMPLE_STAGES = frozenset({"run", "build"})


class Parameters(BaseModel):
    """The validated parameters of the flow `dbt_full_pipeline`; see its docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: TargetName = "dev"
    sources: list[str] | None = None
    source_arguments: dict[str, dict[str, Any]] = Field(default_factory=dict)
    select: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)
    full_refresh: bool = False
    from_date: date | None = None
    to_date: date | None = None
    empty: bool = False
    sample: str | None = None
    vars: dict[str, Any] = Field(default_factory=dict)
    skip: list[Stage] = Field(default_factory=list)
    strategy: Strategy = "run_then_test"
    changed: bool = False
    reuse: bool = True
    resume: bool = True
    failed: bool = False
    wait: bool = True
    verbose: bool = False

    def identity(self) -> dict[str, Any]:
        """Return the parameters that must be equal for one run to resume another."""
        return self.model_dump(mode="json", exclude={"resume", "failed", "wait", "verbose"})

    @property
    def window(self) -> DateWindow | None:
        """The days that the run loads and builds again; None if it is no backfill."""
        if self.from_date is None or self.to_date is None:
            return None
        return DateWindow(self.from_date, self.to_date)

    @property
    def is_development(self) -> bool:
        """Whether the run builds tables without rows, or from a sample: nothing may rely on it."""
        return self.empty or self.sample is not None

    @property
    def is_full_run(self) -> bool:
        """Whether the run builds and tests the whole dbt project."""
        built = {"seed", "snapshot", "run", "test"}
        in_part = self.select or self.exclude or built & set(self.skip) or self.window
        return not (in_part or self.is_development)
