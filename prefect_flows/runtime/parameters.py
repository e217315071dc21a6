"""What a run of the pipeline is asked for, and the stages that this comes to."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prefect_flows.core.names import TargetName
from prefect_flows.core.settings import Stage

Strategy = Literal["run_then_test", "build"]

# Stage → dbt's command, and the resource types it runs.
FRESHNESS = (["source", "freshness"], ("source",))
RUN_THEN_TEST = {
    "freshness": FRESHNESS,
    "seed": (["seed"], ("seed",)),
    "snapshot": (["snapshot"], ("snapshot",)),
    "run": (["run"], ("model",)),
    "test": (["test"], ("test", "unit_test")),
}
# Where a snapshot reads a model, both in the order of the graph.
RUN_WITH_SNAPSHOTS = ["build", "--resource-type", "model", "--resource-type", "snapshot"]
BUILT = ("seed", "snapshot", "model", "test", "unit_test", "function", "saved_query", "exposure")
STAGES_OF = {
    "run_then_test": RUN_THEN_TEST,
    "build": {"freshness": FRESHNESS, "build": (["build"], BUILT)},
}
# What `skip` leaves out of a build.
TYPES_OF_STAGE: dict[Stage, tuple[str, ...]] = {
    "seed": ("seed",),
    "snapshot": ("snapshot",),
    "run": ("model",),
    "test": ("test", "unit_test"),
}

# Stages that `full_refresh` is for.
REFRESHED = frozenset({"seed", "run", "build"})


class Parameters(BaseModel):
    """The pipeline's parameters, validated. The flow's docstring says what each is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: TargetName = "dev"
    sources: list[str] | None = None
    source_arguments: dict[str, dict[str, Any]] = Field(default_factory=dict)
    select: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)
    full_refresh: bool = False
    vars: dict[str, Any] = Field(default_factory=dict)
    skip: list[Stage] = Field(default_factory=list)
    strategy: Strategy = "run_then_test"
    changed: bool = False
    resume: bool = True
    failed: bool = False
    wait: bool = True

    def identity(self) -> dict[str, Any]:
        """What two runs have to share for one to go on from the other."""
        return self.model_dump(mode="json", exclude={"resume", "failed", "wait"})

    @property
    def whole(self) -> bool:
        """Whether the run leaves out nothing that may have changed."""
        built = {"seed", "snapshot", "run", "test"}
        return not (self.select or self.exclude or built & set(self.skip))
