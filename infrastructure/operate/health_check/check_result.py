"""Result of a health check, as data and as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from prefect_flows.core.formatting import one_line

# User and password in a URL.
USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


class Status(StrEnum):
    """Result of a check, the worst last."""

    SKIPPED = "skipped"
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: what was checked, for example `worker`.
        subject: target, work pool or deployment; empty if there is only one.
        status: result.
        seen: one line on what was found, or why nothing could be checked.
        fix: command that fixes it; None if nothing is wrong.
        seconds: duration of the check.
    """

    name: str
    subject: str
    status: Status
    message: str
    fix: str | None = None
    seconds: float = 0.0


def get_overall_status(checks: Iterable[Check]) -> Status:
    """Return `failed` if a check failed, else `warning` if one warns, else `ok`."""
    found = {check.status for check in checks}
    return next((s for s in (Status.FAILED, Status.WARNING) if s in found), Status.OK)


def to_document(checks: Iterable[Check]) -> dict[str, Any]:
    """Build the document that `--json` prints. Keys may be added, but never renamed."""
    checks = list(checks)
    return {
        "status": get_overall_status(checks),
        "checks": [asdict(check) | {"seconds": round(check.seconds, 3)} for check in checks],
    }


def redact_check(check: Check, secrets: Iterable[str]) -> Check:
    """Return the check on one line, with all secrets masked."""

    def clean(text: str) -> str:
        for secret in sorted(filter(None, secrets), key=len, reverse=True):
            text = text.replace(secret, "***")
        return one_line(USERINFO.sub("***@", text))

    return replace(
        check, message=clean(check.message), fix=None if check.fix is None else clean(check.fix)
    )
