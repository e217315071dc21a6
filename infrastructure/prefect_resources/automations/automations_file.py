"""`automations.yaml`: what it may say, and every fault of it at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from infrastructure.prefect_resources.reconcile.yaml_file import read
from prefect_flows.core.names import TargetName

AUTOMATIONS_FILE = Path(__file__).parents[2] / "config" / "automations.yaml"
# Prefect takes none shorter for what does not happen.
SHORTEST = timedelta(seconds=10)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _time(value: Any) -> timedelta | None:
    if value is False:
        return None
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is no time: write 90s, 15m, 6h or 1d, or false")
    time = timedelta(**{UNITS[match[2]]: int(match[1])})
    if time < SHORTEST:
        raise ValueError(f"{value} is too short: at least {SHORTEST.seconds}s, or false")
    return time


# None where it is false.
Time = Annotated[timedelta | None, BeforeValidator(_time)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Times(_Strict):
    """After how long each is told of a target."""

    late: Time
    pending: Time
    stuck: Time
    missing: Time
    crashed: Annotated[bool, Field(strict=True)]


class OwnTimes(_Strict):
    """What of it differs for one target."""

    late: Time = None
    pending: Time = None
    stuck: Time = None
    missing: Time = None
    crashed: Annotated[bool, Field(strict=True)] = True


class OfServer(_Strict):
    """What is found for all targets at once."""

    zombies: Time


class AutomationsFile(_Strict):
    """The whole file."""

    version: Literal[1]
    server: OfServer
    defaults: Times
    targets: Mapping[TargetName, OwnTimes] = Field(default_factory=dict)

    def times(self, target: str) -> Times:
        """The times of a target."""
        own = self.targets.get(target, OwnTimes())
        given = {name: getattr(own, name) for name in own.model_fields_set}
        return self.defaults.model_copy(update=given)

    def asks_for_missing(self, target: str) -> bool:
        """Whether `missing` has a time of the target's own: wanted without a schedule too."""
        own = self.targets.get(target)
        return own is not None and own.missing is not None


def read_automations(file: Path = AUTOMATIONS_FILE) -> AutomationsFile:
    """The file.

    Raises:
        ConfigurationError: it is not there, or says something that is not understood.
    """
    return read(file, AutomationsFile)
