"""Settings from `MILLRACE_…` variables and `.env`: folders, state store, retries, timeouts.

Commands and flows load the settings once when they start, never at import. Nested settings use
`__`: `MILLRACE_STAGES__DBT_RUN__RETRIES=4`. A deployment overrides settings with
`job_variables.env`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from prefect_flows.core.documents import Unreadable, read_text
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.validation_messages import validation_message

PREFIX = "MILLRACE_"

Stage = Literal["ingest", "freshness", "seed", "snapshot", "run", "test", "docs"]
STAGES: tuple[Stage, ...] = get_args(Stage)

MAX_RETRY_DELAY_SECONDS = 600.0
WEEK_SECONDS = 7 * 86_400
# Python's dates can still hold a date this long ago.
CENTURY_DAYS = 36_500


class StagePolicy(BaseModel):
    """Retries, retry delay (exponential backoff) and timeout of a stage.

    Only transient failures are retried; see `prefect_flows.core.failure_class`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    # Prefect accepts at most 50 delays.
    retries: int = Field(ge=0, le=50)
    """Attempts after the first."""
    retry_delay_seconds: float = Field(ge=0, le=MAX_RETRY_DELAY_SECONDS, allow_inf_nan=False)
    """Delay of the first retry; each further one comes twice as late, at most ten minutes."""
    timeout_seconds: float = Field(gt=0, le=WEEK_SECONDS, allow_inf_nan=False)
    """Of one attempt; a week at most."""

    def delays(self) -> list[float]:
        """Return the seconds before each retry, without jitter: they double, up to 10 minutes."""
        return [
            min(self.retry_delay_seconds * 2**n, MAX_RETRY_DELAY_SECONDS)
            for n in range(self.retries)
        ]


class StagePolicies(BaseModel):
    """The policy of each task of the pipeline."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    dbt_deps: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=10, timeout_seconds=600)
    """Only if the project has a packages.yml or a dependencies.yml."""
    connect: StagePolicy = StagePolicy(retries=4, retry_delay_seconds=5, timeout_seconds=120)
    """Only if the warehouse answered that it takes no connections now: it is starting, or has too
    many."""
    extract: StagePolicy = StagePolicy(retries=3, retry_delay_seconds=30, timeout_seconds=3600)
    """Of each source."""
    load: StagePolicy = StagePolicy(retries=3, retry_delay_seconds=45, timeout_seconds=1800)
    """Of each source."""
    dbt_freshness: StagePolicy = StagePolicy(retries=1, retry_delay_seconds=30, timeout_seconds=900)
    dbt_seed: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=30, timeout_seconds=1800)
    dbt_snapshot: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=30, timeout_seconds=3600)
    dbt_run: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=60, timeout_seconds=7200)
    dbt_test: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=30, timeout_seconds=900)
    dbt_build: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=60, timeout_seconds=9000)
    """Of `strategy="build"`: how often a node is tried again is what its own stage allows."""
    count_marts: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=30, timeout_seconds=900)
    """Of the rows of all marts, for the report. A run whose marts cannot be counted passes."""
    dbt_docs: StagePolicy = StagePolicy(retries=1, retry_delay_seconds=30, timeout_seconds=900)


class Settings(BaseSettings):
    """Settings of the pipeline and of the commands that set it up."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    project_dir: Path = Path(__file__).resolve().parents[2]
    """Where the project lies, for an image in which the code is installed elsewhere."""
    local_dir: Path = Field(default_factory=lambda given: given["project_dir"] / ".local")
    """Everything this machine makes: database files, server home, state. `.local` of the project
    when not set; in an image, its volume."""
    project: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    """Id of the project that this clone belongs to, where the file `projects` in `local_dir` does
    not last: CI, containers. Setup refuses targets that another project made."""
    version: str | None = None
    """Of the code, as `deploy` and images name it: a git commit. None: whatever lies here."""
    image: str | None = None
    """The image that work pools and deployments name; a run itself has no use for it."""
    parsed_dir: Path | None = None
    """The dbt project as an image's build parsed it, a folder a target. A machine has none."""
    stages: StagePolicies = StagePolicies()
    """Retries, delays and timeouts, one policy a task of the pipeline."""
    max_parallel_sources: int = Field(default=4, ge=1, le=64)
    """Sources that are brought in side by side; each takes a connection of the warehouse, and
    more."""
    state_url: str | None = None
    """A folder, `gs://bucket/folder` or `s3://bucket/folder`, without a login: the block
    `state-store-login` has that. When not set: what setup wrote for the Prefect API, or
    `.local/state`."""
    resume_within_hours: float = Field(default=6, ge=0, le=CENTURY_DAYS * 24, allow_inf_nan=False)
    """An interrupted run that began longer ago is not resumed: what it built is out of date."""
    keep_runs: int = Field(default=100, ge=1, le=1_000_000)
    """A run's folder is removed when it is not among so many last ones of its target."""
    keep_days: float = Field(default=30, ge=0, le=CENTURY_DAYS, allow_inf_nan=False)
    """A run's folder is removed when it is older than this."""
    price_per_tib: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Of 2**40 bytes that BigQuery bills, in a currency of one's own: the pages then show the
    cost."""
    unreachable_seconds: float = Field(default=120, gt=0, le=3600, allow_inf_nan=False)
    """How long a run waits for a server that does not answer: at its beginning for the warehouse,
    at its end for the Prefect API, which then does not learn how it ended. The log says what is
    waited for, every 30 s."""
    notify_seconds: float = Field(default=5, gt=0, le=3600, allow_inf_nan=False)
    """How long a run waits for those it tells how it ended, all of them together. Who was not told
    is told at the end of the next run."""
    metrics_dir: Path | None = None
    """Where node_exporter's textfile collector reads metrics. Not written by default."""
    metrics_push_url: HttpUrl | None = None
    """A Pushgateway that metrics are pushed to. None by default."""

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: object) -> object:
        """Refuse an empty value, which comes from a variable such as `MILLRACE_X=$UNSET`."""
        if value == "":
            raise ValueError("must not be empty; without the variable, the default holds")
        return value

    @property
    def dbt_dir(self) -> Path:
        """The folder of the dbt project."""
        return self.project_dir / "dbt"

    @property
    def dbt_project_file(self) -> Path:
        """The `dbt_project.yml`, whose `disabled_sources` lists the sources that are off."""
        return self.dbt_dir / "dbt_project.yml"

    @property
    def profiles_file(self) -> Path:
        """The `profiles.yml` that setup writes, for people who run dbt themselves."""
        return self.dbt_dir / "profiles.yml"

    @property
    def default_state_url(self) -> str:
        """The URL of the state store if none is configured."""
        return str(self.local_dir / "state")

    def target_path(self, target: str) -> Path:
        """Return dbt's target path for a target: its artifacts and its partial parse."""
        return self.local_dir / "dbt" / target


def load_settings() -> Settings:
    """Load the settings from the environment and the project's `.env`.

    Raises:
        ConfigurationError: a value is invalid, or a `MILLRACE_…` variable is not a setting.
    """
    where = f"the environment and {Path(os.environ.get(PREFIX + 'PROJECT_DIR', '.')) / '.env'}"
    fix = "correct the variables named above; .env.example lists what can be set"
    known = tuple(PREFIX + name.upper() for name in Settings.model_fields)
    unknown = [
        name for name in os.environ if name.startswith(PREFIX) and name.split("__")[0] not in known
    ]
    if unknown:
        raise ConfigurationError(
            f"Unknown settings: {', '.join(sorted(unknown))}.", where=where, fix=fix
        )
    root = Path(
        os.environ.get(PREFIX + "PROJECT_DIR", Settings.model_fields["project_dir"].default)
    )
    try:
        if (root / ".env").exists():
            read_text(root / ".env")
        return Settings(_env_file=root / ".env")
    except (OSError, Unreadable) as error:
        raise ConfigurationError(
            f"The settings cannot be read: {error}.", where=str(root / ".env"), fix=fix
        ) from error
    except SettingsError as error:
        raise ConfigurationError(
            f"Invalid settings: {PREFIX}STAGES must be a JSON object, or left out for variables "
            f"{PREFIX}STAGES__….",
            where=where,
            fix=fix,
        ) from error
    except ValidationError as error:
        faults = "; ".join(
            f"{PREFIX}{'__'.join(str(part) for part in fault['loc']).upper()}: "
            f"{validation_message(fault)}"
            for fault in error.errors(include_input=False)
        )
        raise ConfigurationError(f"Invalid settings: {faults}.", where=where, fix=fix) from error
