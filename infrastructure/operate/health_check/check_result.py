"""What a check says, for people and for machines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

# What a URL holds before its host: user and password.
USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


class Status(StrEnum):
    """How a check ended, the worst last."""

    SKIPPED = "skipped"
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what was looked at, for example `worker`.
        subject: of what: a target, a pool, a deployment; empty where there is only one.
        seen: one line of what was seen, or why nothing was.
        fix: the command that fixes it; none where nothing is wrong.
        seconds: how long the asking took.
    """

    name: str
    subject: str
    status: Status
    seen: str
    fix: str | None = None
    seconds: float = 0.0


def overall(checks: Iterable[Check]) -> Status:
    """`failed` when one failed, else `warning` when one warns, else `ok`."""
    found = {check.status for check in checks}
    return next((s for s in (Status.FAILED, Status.WARNING) if s in found), Status.OK)


def document(checks: Iterable[Check]) -> dict[str, Any]:
    """What `--json` prints. Keys are added, never renamed."""
    checks = list(checks)
    return {
        "status": overall(checks),
        "checks": [asdict(check) | {"seconds": round(check.seconds, 3)} for check in checks],
    }


def redacted(check: Check, secrets: Iterable[str]) -> Check:
    """The check on one line, with no secret in it, wherever the words of it came from."""

    def clean(text: str) -> str:
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            text = text.replace(secret, "***")
        return " ".join(USERINFO.sub("***@", text).split())

    return replace(
        check, seen=clean(check.seen), fix=None if check.fix is None else clean(check.fix)
    )


def lasting(seconds: float) -> str:
    """A duration as a person says it: `42 s`, `5 min`, `3 h`, `2 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
