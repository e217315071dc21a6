"""The files `prefect.yaml`: the deployments of the pipeline and of each source, read strictly.

They are Prefect's own format, so that its command line reads them too. It resolves references to
blocks while it deploys, and so writes a registry's password into the deployment, for every reader;
here a reference stays one until a worker needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from infrastructure.setup_work_pools.pools_file import Env
from infrastructure.version import image_of_source
from prefect_flows.errors import ConfigurationError
from prefect_flows.settings import Settings
from prefect_flows.targets import TargetName

SOURCES = "prefect_flows/sources"
FILE = "prefect.yaml"
# As `job_variables.image`: the source's own image, in the version that is deployed.
SOURCE_IMAGE = "{{ source_image }}"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(_Strict):
    """When runs begin: one of cron, interval (seconds) and rrule."""

    cron: str | None = None
    interval: float | None = None
    rrule: str | None = None
    timezone: str = "UTC"

    @model_validator(mode="after")
    def _one(self) -> Schedule:
        if sum(each is not None for each in (self.cron, self.interval, self.rrule)) != 1:
            raise ValueError("give one of cron, interval and rrule")
        return self


class ConcurrencyLimit(_Strict):
    """How many runs at once, and what becomes of one too many."""

    limit: PositiveInt
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]


class JobVariables(BaseModel):
    """Job variables of any name; the environment holds no secret but by reference."""

    model_config = ConfigDict(frozen=True, extra="allow")

    env: Env = Field(default_factory=dict)


class WorkPool(_Strict):
    """Where the runs go."""

    name: str
    work_queue_name: str | None = None
    job_variables: JobVariables = Field(default_factory=JobVariables)


class Deployment(_Strict):
    """One deployment, as its file says it.

    Attributes:
        entrypoint: a module path, `package.module.flow`: the code is what is installed where the
            run goes, in an image or in a checkout.
    """

    name: str
    entrypoint: Annotated[str, Field(pattern=r"^[A-Za-z_][\w]*(\.[A-Za-z_][\w]*)+$")]
    description: str | None = None
    parameters: Mapping[str, Any]
    tags: Sequence[str] = ()
    schedules: Sequence[Schedule] = ()
    concurrency_limit: ConcurrencyLimit
    enforce_parameter_schema: bool = True
    work_pool: WorkPool

    @property
    def target(self) -> str:
        """The target that its runs are for."""
        return str(self.parameters["target"])

    @property
    def source(self) -> str | None:
        """The source whose flow it runs; none where it is another flow."""
        package = SOURCES.replace("/", ".") + "."
        if not self.entrypoint.startswith(package):
            return None
        return self.entrypoint.removeprefix(package).partition(".")[0]

    def image(self, image: str | None) -> str | None:
        """The image of its runs: the one that its file names, the source's own, or the given one.

        Args:
            image: the project's image, in the version that is deployed.

        Raises:
            ConfigurationError: it names the source's own, and none can be told.
        """
        given = (self.work_pool.job_variables.model_extra or {}).get("image")
        if given != SOURCE_IMAGE:
            return image if given is None else str(given)
        if self.source is None:
            raise ConfigurationError(
                f"{SOURCE_IMAGE} is the own image of a source, and {self.entrypoint} is no "
                "source's flow.",
                where=f"{self.name}, job_variables.image",
                mend="take the image out of the file: the runs have the project's",
            )
        return None if image is None else image_of_source(image, self.source)

    @model_validator(mode="after")
    def _is_of_a_target(self) -> Deployment:
        try:
            TypeAdapter(TargetName).validate_python(self.parameters.get("target"))
        except ValidationError:
            raise ValueError("parameters.target: give the name of a target") from None
        if not self.name.endswith(f"-{self.target}"):
            raise ValueError(f"name: end it with -{self.target}, its target")
        return self


class DeploymentsFile(BaseModel):
    """A whole file; the keys that serve Prefect's command line only are not looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    prefect_version: str | None = Field(default=None, alias="prefect-version")
    definitions: Any = None
    pull: Annotated[Sequence[Any], Field(max_length=0)]
    deployments: Sequence[Deployment]


def files_of(settings: Settings) -> list[Path]:
    """The root's file, then one for each source that has one."""
    sources = settings.project_dir / SOURCES
    return [settings.project_dir / FILE, *sorted(sources.glob(f"*/{FILE}"))]


def read(file: Path) -> list[Deployment]:
    """The deployments of a file.

    Raises:
        ConfigurationError: it cannot be read, or says something that is not understood.
    """
    mend = f"correct {file.name}; documentation/deployments.md says what may stand there"
    try:
        document = yaml.safe_load(file.read_text())
        return list(DeploymentsFile.model_validate(document).deployments)
    except OSError as error:
        raise ConfigurationError(
            f"The file of deployments cannot be read: {error.strerror}.", where=str(file), mend=mend
        ) from error
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"The file of deployments is not YAML: {error}", where=str(file), mend=mend
        ) from error
    except ValidationError as error:
        raise ConfigurationError(_faults(error, document), where=str(file), mend=mend) from error


def _faults(error: ValidationError, document: Any) -> str:
    lines = []
    for fault in error.errors(include_input=False):
        path: list[Any] = list(fault["loc"])
        if path[:1] == ["deployments"] and len(path) > 1:
            named = document["deployments"][path[1]]
            path[:2] = [named.get("name", path[1]) if isinstance(named, Mapping) else path[1]]
        lines.append(f"  - {'.'.join(str(part) for part in path)}: {fault['msg']}")
    return f"{len(lines)} fault(s) in the file of deployments:\n" + "\n".join(lines)


def of_targets(deployments: Iterable[Deployment], targets: Sequence[str]) -> list[Deployment]:
    """Those of the given targets; all when none is given."""
    return [each for each in deployments if not targets or each.target in targets]
