"""Schema of `automations.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from infrastructure.prefect_resources.reconcile.yaml_file import read
from prefect_flows.core.names import TargetName

AUTOMATIONS_FILE = "automations.yaml"
# Prefect's minimum for proactive triggers.
MINIMUM_TIME = timedelta(seconds=10)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _parse_time(value: Any) -> timedelta | None:
    if value is False:
        return None
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration: write 90s, 15m, 6h or 1d, or false")
    time = timedelta(**{UNITS[match[2]]: int(match[1])})
    if time < MINIMUM_TIME:
        raise ValueError(f"{value} is too short: at least {MINIMUM_TIME.seconds}s, or false")
    return time


# None if the file says false.
Time = Annotated[timedelta | None, BeforeValidator(_parse_time)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Times(_Strict):
    """After how long the owners of a target are notified of each problem."""

    late: Time
    pending: Time
    stuck: Time
    missing: Time
    crashed: Annotated[bool, Field(strict=True)]


class TargetTimes(_Strict):
    """Times that one target overrides."""

    late: Time = None
    pending: Time = None
    stuck: Time = None
    missing: Time = None
    crashed: Annotated[bool, Field(strict=True)] = True


class ServerTimes(_Strict):
    """Times of automations for the whole server."""

    zombies: Time


class AutomationsFile(_Strict):
    """Content of `automations.yaml`."""

    version: Literal[1]
    server: ServerTimes
    defaults: Times
    targets: Mapping[TargetName, TargetTimes] = Field(default_factory=dict)

    def get_times(self, target: str) -> Times:
        """Return the times of a target: the defaults with its own on top."""
        own = self.targets.get(target, TargetTimes())
        given = {name: getattr(own, name) for name in own.model_fields_set}
        return self.defaults.model_copy(update=given)

    def overrides_missing(self, target: str) -> bool:
        """Return whether the target sets `missing`, so that it applies without a schedule."""
        own = self.targets.get(target)
        return own is not None and own.missing is not None


def read_automations(file: Path) -> AutomationsFile:
    """Read and validate the file.

    Raises:
        ConfigurationError: the file does not exist or is invalid.
    """
    return read(file, AutomationsFile)
