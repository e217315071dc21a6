"""Read `prefect.yaml` files, the deployments of the pipeline and each source, strictly.

The format is Prefect's own, so `prefect deploy` can read them too. However, `prefect deploy`
resolves references to blocks, and so writes a registry's password into the deployment, where every
reader of the API sees it. Here a reference stays one until a worker resolves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from infrastructure.prefect_resources.work_pools.pools_file import Env
from infrastructure.source_images import get_source_image
from prefect_flows.core.documents import DocumentError, parse_yaml_with_nodes, read_text
from prefect_flows.core.errors import ConfigurationError, did_you_mean
from prefect_flows.core.names import TargetName
from prefect_flows.core.settings import Settings
from prefect_flows.core.validation_messages import format_fault, validation_message
from prefect_flows.ingest import source_registry

FILE = "prefect.yaml"
# Value of `job_variables.image` that means the source's own image, in the deployed version.
SOURCE_IMAGE = "{{ source_image }}"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(_Strict):
    """When runs start: one of cron, interval (seconds) and rrule."""

    cron: str | None = None
    interval: Annotated[float, Field(gt=0)] | None = None
    rrule: str | None = None
    timezone: str = "UTC"

    # Validated here rather than by Prefect's API, so that the error names the line.
    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str | None) -> str | None:
        from prefect.client.schemas.schedules import CronSchedule

        return cron if cron is None else _validated_by(CronSchedule, "cron", cron)

    @field_validator("rrule")
    @classmethod
    def _is_rrule(cls, rrule: str | None) -> str | None:
        from prefect.client.schemas.schedules import RRuleSchedule

        return rrule if rrule is None else _validated_by(RRuleSchedule, "rrule", rrule)

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, timezone: str) -> str:
        known = available_timezones()
        if timezone not in known:
            similar = did_you_mean(timezone, known)
            raise ValueError(f"there is no time zone {timezone!r}.{similar}")
        return timezone

    @model_validator(mode="after")
    def _one(self) -> Schedule:
        if sum(each is not None for each in (self.cron, self.interval, self.rrule)) != 1:
            raise ValueError("give one of cron, interval and rrule")
        return self


def _validated_by(schedule: type[BaseModel], field: str, value: str) -> str:
    try:
        schedule.model_validate({field: value})
    except ValidationError as error:
        raise ValueError(validation_message(error.errors()[0])) from None
    return value


class ConcurrencyLimit(_Strict):
    """Maximum number of concurrent runs, and what happens to further ones."""

    limit: PositiveInt
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]


class JobVariables(BaseModel):
    """Job variables; the environment may contain secrets only as references."""

    model_config = ConfigDict(frozen=True, extra="allow")

    env: Env = Field(default_factory=dict)


class WorkPool(_Strict):
    """Work pool and queue of the runs."""

    name: str
    work_queue_name: str | None = None
    job_variables: JobVariables = Field(default_factory=JobVariables)


class Deployment(_Strict):
    """A deployment in its file.

    Attributes:
        entrypoint: module path, `package.module.flow`, since the code is installed where the run
            executes, in an image or a checkout.
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
        """The target of its runs."""
        return str(self.parameters["target"])

    @property
    def source(self) -> str | None:
        """The source whose flow it runs; None for another flow."""
        package = f"{source_registry.PACKAGE}."
        if not self.entrypoint.startswith(package):
            return None
        return self.entrypoint.removeprefix(package).partition(".")[0]

    def image(self, image: str | None) -> str | None:
        """Return the image of its runs: the one in its file, the source's own, or the given one.

        Args:
            image: the project's image in the deployed version.

        Raises:
            ConfigurationError: the file names a source's own image, but the flow is not a source's.
        """
        given = (self.work_pool.job_variables.model_extra or {}).get("image")
        if given != SOURCE_IMAGE:
            return image if given is None else str(given)
        if self.source is None:
            raise ConfigurationError(
                f"{SOURCE_IMAGE} is the own image of a source, and {self.entrypoint} is no "
                "source's flow.",
                where=f"{self.name}, job_variables.image",
                fix="take the image out of the file: the runs have the project's",
            )
        return None if image is None else get_source_image(image, self.source)

    @model_validator(mode="after")
    def _check_target(self) -> Deployment:
        try:
            TypeAdapter(TargetName).validate_python(self.parameters.get("target"))
        except ValidationError:
            raise ValueError("parameters.target: give the name of a target") from None
        if not self.name.endswith(f"-{self.target}"):
            raise ValueError(f"name: end it with -{self.target}, its target")
        return self


class DeploymentsFile(BaseModel):
    """Content of a file; keys that only Prefect's command line uses are ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    prefect_version: str | None = Field(default=None, alias="prefect-version")
    definitions: Any = None
    pull: Annotated[Sequence[Any], Field(max_length=0)]
    deployments: Sequence[Deployment]


def list_deployment_files(settings: Settings) -> list[Path]:
    """Return the root's file, then those of the sources."""
    sources = settings.sources_dir.glob(f"*/{FILE}")
    return [settings.project_dir / FILE, *sorted(sources)]


@dataclass(frozen=True)
class InvalidDeployment:
    """An invalid deployment of a file.

    Attributes:
        target: the target in the file, if any.
    """

    name: str
    target: str | None
    faults: Sequence[str]


def read_deployments(file: Path) -> list[Deployment]:
    """Read the deployments of a file.

    Raises:
        ConfigurationError: the file cannot be read or is invalid.
    """
    deployments, faulty = read_valid_and_invalid(file)
    if faulty:
        raise _invalid_file_error(file, [fault for each in faulty for fault in each.faults])
    return deployments


def read_valid_and_invalid(file: Path) -> tuple[list[Deployment], list[InvalidDeployment]]:
    """Return the valid and the invalid deployments of a file.

    Raises:
        ConfigurationError: the file cannot be read, or is invalid outside its deployments.
    """
    fix = _fix(file)
    try:
        root, document = parse_yaml_with_nodes(read_text(file))
    except OSError as error:
        raise ConfigurationError(
            f"The file of deployments cannot be read: {error.strerror}.", where=str(file), fix=fix
        ) from error
    except DocumentError as error:
        raise ConfigurationError(
            f"The file of deployments cannot be read: {error}.", where=str(file), fix=fix
        ) from error
    try:
        return list(DeploymentsFile.model_validate(document).deployments), []
    except ValidationError as error:
        found = error.errors(include_input=False)
    whole: list[str] = []
    of_deployment: dict[int, list[str]] = {}
    for fault in found:
        path: list[Any] = list(fault["loc"])
        line = _line(root, path)
        if path[:1] == ["deployments"] and len(path) > 1:
            faults = of_deployment.setdefault(path[1], [])
            path[:2] = [_name(document, path[1])]
        else:
            faults = whole
        faults.append(f"{format_fault({**fault, 'loc': path})} ({file.name}, line {line})")
    if whole:
        raise _invalid_file_error(
            file, [*whole, *(each for some in of_deployment.values() for each in some)]
        )
    valid = [
        Deployment.model_validate(each)
        for index, each in enumerate(document["deployments"])
        if index not in of_deployment
    ]
    return valid, [
        InvalidDeployment(_name(document, index), _target(document, index), faults)
        for index, faults in of_deployment.items()
    ]


def _fix(file: Path) -> str:
    return f"correct {file.name}; documentation/deployments.md describes the allowed keys"


def _invalid_file_error(file: Path, faults: Sequence[str]) -> ConfigurationError:
    lines = "".join(f"\n  - {fault}" for fault in faults)
    return ConfigurationError(
        f"{len(faults)} fault(s) in the file of deployments:{lines}",
        where=str(file),
        fix=_fix(file),
    )


def _name(document: Any, index: int) -> str:
    named = document["deployments"][index]
    return str(named.get("name", index)) if isinstance(named, Mapping) else str(index)


def _target(document: Any, index: int) -> str | None:
    """Return the target of an invalid deployment, if it has one."""
    parameters = document["deployments"][index]
    for key in ("parameters", "target"):
        parameters = parameters.get(key) if isinstance(parameters, Mapping) else None
    return parameters if isinstance(parameters, str) else None


def _line(node: Any, path: Sequence[Any]) -> int:
    """Return the line of the deepest part of a path that exists in the file, counted from one."""
    line = 0 if node is None else node.start_mark.line
    for part in path:
        if isinstance(node, yaml.MappingNode):
            # Merged keys come before the keys that override them, so take the last.
            found = [(key, value) for key, value in node.value if key.value == part]
        elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
            found = [(node.value[part], node.value[part])]
        else:
            found = []
        if not found:
            break
        key, node = found[-1]
        line = key.start_mark.line
    return int(line) + 1


def filter_by_target(deployments: Iterable[Deployment], targets: Sequence[str]) -> list[Deployment]:
    """Return the deployments of the given targets; all if no target is given."""
    return [each for each in deployments if not targets or each.target in targets]
