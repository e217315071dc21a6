"""Settings from `MILLRACE_…` variables, `.env` and `millrace.toml`: folders, retries, timeouts.

Commands and flows load the settings once when they start, never at import. Nested settings use
`__`: `MILLRACE_STAGES__DBT_RUN__RETRIES=4`. A deployment overrides settings with
`job_variables.env`. `millrace.toml` has what is the same in all clones of the project, in git.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from prefect_flows.core.documents import DocumentError, read_text
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.names import Warehouse
from prefect_flows.core.project_folder import (
    SHARED_FILE,
    enter_folder,
    find_project_dir,
    has_engine,
)
from prefect_flows.core.validation_messages import validation_message

PREFIX = "MILLRACE_"

Stage = Literal["ingest", "freshness", "seed", "snapshot", "run", "test", "docs"]
STAGES: tuple[Stage, ...] = get_args(Stage)

# Maximum delay of the backoff, for all stages, and the largest `retry_delay_seconds`; two
# docstrings below say it in minutes.
MAX_RETRY_DELAY_SECONDS = 600.0
WEEK_SECONDS = 7 * 86_400
# Python's dates can still hold a date this long ago.
CENTURY_DAYS = 36_500


class StagePolicy(BaseModel):
    """Retries, retry delay (exponential backoff) and timeout of a stage.

    Only transient failures are retried; see `prefect_flows.core.failure_class`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Prefect accepts at most 50 delays.
    retries: int = Field(ge=0, le=50)
    """Number of retries after the first attempt."""
    retry_delay_seconds: float = Field(ge=0, le=MAX_RETRY_DELAY_SECONDS, allow_inf_nan=False)
    """Delay before the first retry. It doubles with each retry, up to 10 minutes."""
    timeout_seconds: float = Field(gt=0, le=WEEK_SECONDS, allow_inf_nan=False)
    """Timeout of one attempt, at most a week."""

    def delays(self) -> list[float]:
        """Return the seconds before each retry, without jitter: they double, up to 10 minutes."""
        return [
            min(self.retry_delay_seconds * 2**n, MAX_RETRY_DELAY_SECONDS)
            for n in range(self.retries)
        ]


class StagePolicies(BaseModel):
    """The policy of each task of the pipeline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dbt_deps: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=10, timeout_seconds=600)
    """Runs only if the project has a packages.yml or a dependencies.yml."""
    connect: StagePolicy = StagePolicy(retries=4, retry_delay_seconds=5, timeout_seconds=120)
    """Runs only if the warehouse accepts no connections: it is starting, or has too many."""
    extract: StagePolicy = StagePolicy(retries=3, retry_delay_seconds=30, timeout_seconds=3600)
    """For each source."""
    load: StagePolicy = StagePolicy(retries=3, retry_delay_seconds=45, timeout_seconds=1800)
    """For each source."""
    dbt_freshness: StagePolicy = StagePolicy(retries=1, retry_delay_seconds=30, timeout_seconds=900)
    dbt_seed: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=30, timeout_seconds=1800)
    dbt_snapshot: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=30, timeout_seconds=3600)
    dbt_run: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=60, timeout_seconds=7200)
    dbt_test: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=30, timeout_seconds=900)
    dbt_build: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=60, timeout_seconds=9000)
    """For `strategy="build"`. The retries of a node are those of its own stage."""
    publish_prepare: StagePolicy = StagePolicy(
        retries=2, retry_delay_seconds=15, timeout_seconds=3600
    )
    """For targets that publish: incremental models and snapshots start from the published rows."""
    publish: StagePolicy = StagePolicy(retries=4, retry_delay_seconds=15, timeout_seconds=900)
    """For targets that publish: shows readers the tested models. It is retried while readers hold
    locks."""
    count_marts: StagePolicy = StagePolicy(retries=2, retry_delay_seconds=30, timeout_seconds=900)
    """Counts the rows of all marts for the report. A failure does not fail the run."""
    dbt_docs: StagePolicy = StagePolicy(retries=1, retry_delay_seconds=30, timeout_seconds=900)


class Settings(BaseSettings):
    """Settings of the pipeline and of the commands that set it up."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        frozen=True,
        extra="ignore",
    )

    project_dir: Path = Field(default_factory=find_project_dir)
    """Folder of the project. The default is the working directory, or its nearest parent, that has
    a `millrace.toml`; else the clone that the command comes from."""
    dbt_dir: Path = Path("dbt")
    """Folder of the dbt project, relative to the project; `.` for the project's own folder."""
    sources_dir: Path = Field(
        default_factory=lambda given: _default_folder(given, "prefect_flows/sources", "sources")
    )
    """Folder of the sources, relative to the project. The default is `prefect_flows/sources` in a
    clone, and `sources` if the engine is an installed package."""
    config_dir: Path = Field(
        default_factory=lambda given: _default_folder(given, "infrastructure/config", "config")
    )
    """Folder of `pools.yaml` and `automations.yaml`, relative to the project. The default is
    `infrastructure/config` in a clone, and `config` if the engine is an installed package. The
    engine's own files stand for those that are missing."""
    local_dir: Path = Field(default_factory=lambda given: given["project_dir"] / ".local")
    """Folder for everything that this machine creates: database files, server home, state. The
    default is `.local` in the project; in an image, its volume."""
    project: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    """Id of the project of this clone, for CI and containers, where the file `projects` in
    `local_dir` is not kept. Setup refuses targets of another project."""
    version: str | None = None
    """Git commit of the code, as `deploy` and images name it. None: the code in this folder."""
    image: str | None = None
    """The image of work pools and deployments. Runs do not use it."""
    profiles_dir: Path = Field(default_factory=lambda given: given["dbt_dir"])
    """Folder of the `profiles.yml` that setup writes, relative to the project. The default is the
    dbt project; a project with a `profiles.yml` of its own names another folder."""
    mart_folders: list[str] = ["marts"]
    """Names of the folders of the dbt project whose models are marts: reports count their rows, and
    targets that publish show them to readers."""
    quickstart_options: list[str] = []
    """Options of the run that `quickstart` starts."""
    check_warehouses: list[Warehouse] = ["postgres", "bigquery"]
    """Warehouses that `check models` checks the SQL for."""
    engine_url: str | None = None
    """Git URL of the repository that `update` takes releases of the engine from."""
    engine_version: str | None = Field(default=None, pattern=r"^\d+\.\d+\.\d+$")
    """The release of the engine that `update` merged last. `update` writes it into
    `millrace.toml`."""
    parsed_dir: Path | None = None
    """Folder with the partial parse of an image's build, one folder per target. Images set it."""
    stages: StagePolicies = StagePolicies()
    """Retries, retry delays and timeouts of each task of the pipeline."""
    batch_tests: bool = True
    """Run data tests in few statements: one scan of a table counts the failures of many tests. If
    false, each test is a statement of its own, as on dbt's command line."""
    reuse: bool = True
    """Build only what has new data or new code. If false, every run builds and tests all that it
    selects, as with `--no-reuse`."""
    verbose: bool = False
    """Log each node that passes, and why it ran. If false, the log has one line for each stage, and
    one for each node that does not pass."""
    production_targets: str = "prod"
    """Names of targets, separated by commas, that refuse `--empty` and `--sample`. Targets that
    publish refuse them too."""
    max_parallel_sources: int = Field(default=4, ge=1, le=64)
    """Maximum number of sources that are ingested concurrently. Each needs at least one connection
    to the warehouse."""
    state_url: str | None = None
    """URL of the state store: a folder, `gs://bucket/folder` or `s3://bucket/folder`. The login is
    in the block `state-store-login`, not in the URL. The default is the URL that setup stored in
    Prefect, or else `.local/state`."""
    resume_within_hours: float = Field(default=6, ge=0, le=CENTURY_DAYS * 24, allow_inf_nan=False)
    """An interrupted run that started longer ago is not resumed: its results are out of date."""
    keep_runs: int = Field(default=100, ge=1, le=1_000_000)
    """Number of runs to keep per target; folders of older runs are removed."""
    keep_days: float = Field(default=30, ge=0, le=CENTURY_DAYS, allow_inf_nan=False)
    """Number of days to keep runs; folders of older runs are removed."""
    price_per_tib: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Price of 2**40 bytes billed by BigQuery, in your currency. If it is set, reports show the
    cost."""
    unreachable_seconds: float = Field(default=120, gt=0, le=3600, allow_inf_nan=False)
    """How long a run waits for a server that does not answer: at its start for the warehouse, at
    its end for the Prefect API, which then does not get its result. The log names the server every
    30 s."""
    notify_seconds: float = Field(default=5, gt=0, le=3600, allow_inf_nan=False)
    """How long a run waits until all its notifications are sent. The next run sends those that
    were not."""
    metrics_dir: Path | None = None
    """Folder for metrics that node_exporter's textfile collector reads. None by default."""
    metrics_push_url: HttpUrl | None = None
    """URL of a Pushgateway that gets the metrics. None by default."""
    openlineage_url: HttpUrl | None = None
    """URL of an OpenLineage API that gets the events of each run, such as
    `http://marquez:5000/api/v1`. None by default: they are only in the state store."""

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: object) -> object:
        """Refuse an empty value, which comes from a variable such as `MILLRACE_X=$UNSET`."""
        if value == "":
            raise ValueError("must not be empty; remove the variable to use the default")
        return value

    @field_validator("dbt_dir", "sources_dir", "config_dir", "profiles_dir")
    @classmethod
    def _within_project(cls, value: Path, info: ValidationInfo) -> Path:
        return Path(info.data["project_dir"]) / value if "project_dir" in info.data else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, then `.env`, then `millrace.toml` beside it."""
        file = (
            dotenv_settings.env_file if isinstance(dotenv_settings, DotEnvSettingsSource) else None
        )
        shared = _read_shared(Path(file).with_name(SHARED_FILE)) if isinstance(file, Path) else {}
        return (
            init_settings, env_settings, dotenv_settings, InitSettingsSource(settings_cls, shared)
        )  # fmt: skip

    @property
    def enter_dbt_dir(self) -> str:
        """The beginning of a shell command that runs in the dbt project: `cd dbt && `."""
        return enter_folder(self.dbt_dir, self.project_dir)

    @property
    def dbt_project_file(self) -> Path:
        """The `dbt_project.yml`, whose `disabled_sources` lists the sources that are off."""
        return self.dbt_dir / "dbt_project.yml"

    @property
    def profiles_file(self) -> Path:
        """The `profiles.yml` that setup writes, for people who run dbt themselves."""
        return self.profiles_dir / "profiles.yml"

    @property
    def default_state_url(self) -> str:
        """The URL of the state store if none is configured."""
        return str(self.local_dir / "state")

    def target_path(self, target: str) -> Path:
        """Return dbt's target path for a target: its artifacts and its partial parse."""
        return self.local_dir / "dbt" / target


def _default_folder(given: dict[str, Any], in_clone: str, with_package: str) -> Path:
    project_dir: Path = given["project_dir"]
    return project_dir / (in_clone if has_engine(project_dir) else with_package)


def _read_shared(file: Path) -> dict[str, Any]:
    """Read `millrace.toml`, which need not exist."""
    if not file.exists():
        return {}
    fix = "correct the file, or get it back from git; documentation/reference/settings.md lists all"
    try:
        found = tomllib.loads(read_text(file))
    except (OSError, DocumentError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(
            f"{file.name} cannot be read: {error}.", where=str(file), fix=fix
        ) from error
    if unknown := sorted(found.keys() - Settings.model_fields.keys()):
        raise ConfigurationError(
            f"Unknown settings: {', '.join(unknown)}.", where=str(file), fix=fix
        )
    return found


def load_settings() -> Settings:
    """Load the settings from the environment, the project's `.env` and its `millrace.toml`.

    Raises:
        ConfigurationError: there is no project here, a value is invalid, or a `MILLRACE_…` variable
            is not a setting.
    """
    root = find_project_dir()
    where = f"the environment, {root / '.env'} and {root / SHARED_FILE}"
    fix = "correct the variables named above; .env.example lists what can be set"
    known = tuple(PREFIX + name.upper() for name in Settings.model_fields)
    unknown = [
        name for name in os.environ if name.startswith(PREFIX) and name.split("__")[0] not in known
    ]
    if unknown:
        raise ConfigurationError(
            f"Unknown settings: {', '.join(sorted(unknown))}.", where=where, fix=fix
        )
    try:
        if (root / ".env").exists():
            read_text(root / ".env")
        return Settings(_env_file=root / ".env")
    except (OSError, DocumentError) as error:
        raise ConfigurationError(
            f"The settings cannot be read: {error}.", where=str(root / ".env"), fix=fix
        ) from error
    except SettingsError as error:
        # Its text has the field and the source, not the value.
        field = str(error).partition('field "')[2].partition('"')[0]
        shape = (
            f"a JSON object, or left out for variables {PREFIX}STAGES__…"
            if field == "stages"
            else 'a JSON list, such as ["a", "b"]'
        )
        raise ConfigurationError(
            f"Invalid settings: {PREFIX}{field.upper()} must be {shape}.",
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
