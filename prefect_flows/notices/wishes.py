"""What a target's people want to be told, as setup takes it from Terraform's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

Event = Literal["failure", "recovery", "warning", "stale", "success", "retry"]
# What is told where nothing else is asked for.
USUAL: tuple[Event, ...] = ("failure", "recovery", "warning", "stale")


class Wishes(BaseModel):
    """What is told of a target.

    Attributes:
        events: a test that warns is a `warning`, a source that is too old is `stale`; `retry` tells
            at the end of a run what was tried again in it.
        owners: `meta.owner` → how a chat mentions them, for example `<@U024BE7LH>` in Slack.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: tuple[Event, ...] = USUAL
    owners: Mapping[str, str] = {}
