"""Triggers and notification texts of each automation.

The events of a flow run are named after its state, for example `prefect.flow-run.Late`. A proactive
trigger opens a window for each run at an event in `after`, and fires if no event in `expect`
follows within the window. A trigger without `for_each`, such as `missing`, opens its first window
when it is created, so that it also finds a target that was never refreshed. An event that is in
both lists restarts the window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from infrastructure.prefect_resources.automations.automations_file import Times
from prefect_flows.core.formatting import format_duration
from prefect_flows.core.names import PIPELINE, run_tag

EVENT = "prefect.flow-run."
HEARTBEAT = f"{EVENT}heartbeat"
FINISHED_STATES = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")
# States after Late. A run that waits for its turn is not late.
TAKEN_STATES = ("Pending", "Running", "AwaitingConcurrencySlot", "Cancelling", *FINISHED_STATES)
STARTED_STATES = ("Running", "AwaitingConcurrencySlot", "Cancelling", *FINISHED_STATES)
RUN = {"prefect.resource.id": "prefect.flow-run.*"}
EACH_RUN = ("prefect.resource.id",)

# `ui_url` is "None" on a server that does not know its own URL.
LINK = '{{ (flow_run|ui_url) or "flow run " ~ flow_run.id }}'
LABEL = "The run {{ flow_run.name }}{% if deployment %} of {{ deployment.name }}{% endif %}"
HEALTH = "uv run millrace health {target}"
LOGS = "uv run prefect flow-run logs {{ flow_run.id }}"
CANCEL = "uv run prefect flow-run cancel {{ flow_run.id }}"


@dataclass(frozen=True)
class Finding:
    """A problem that an automation detects.

    Attributes:
        name: part of the automation's name, and key in the file.
        description: description in the UI.
        trigger: Prefect's trigger, normalized by `automation_resources.normal`.
        subject: Jinja template of the notification; empty if nobody is notified.
        body: Jinja template of the notification; empty if nobody is notified.
    """

    name: str
    description: str
    trigger: dict[str, Any]
    subject: str = ""
    body: str = ""


def build_target_findings(target: str, times: Times, *, scheduled: bool) -> Iterable[Finding]:
    """Yield the findings of a target.

    Args:
        target: the target.
        times: after how long each problem counts.
        scheduled: whether completed runs are expected.
    """
    runs = _related_tag(run_tag(target))
    health = HEALTH.format(target=target)
    if times.late is not None:
        yield Finding(
            "late",
            f"No worker has taken a run of {target}, {format_duration(times.late)} after it was "
            "late.",
            _absence(times.late, after=("Late",), expect=TAKEN_STATES, match_related=[runs]),
            f"Millrace: target {target}: a run is late",
            f"{LABEL} is due since {{{{ flow_run.expected_start_time }}}}, and no worker has taken "
            f"it.\n{LINK}\nCheck: {health}",
        )
    if times.pending is not None:
        yield Finding(
            "pending",
            f"A worker has taken a run of {target}, which has not begun after "
            f"{format_duration(times.pending)}.",
            _absence(
                times.pending, after=("Pending",), expect=STARTED_STATES, match_related=[runs]
            ),
            f"Millrace: target {target}: a run does not begin",
            f"{LABEL} was taken by a worker {format_duration(times.pending)} ago, and has not "
            "begun: an image that cannot be pulled, no room for its container, a worker that is "
            f"gone.\n{LINK}\nWhat it says: {LOGS}",
        )
    if times.stuck is not None:
        yield Finding(
            "stuck",
            f"A run of {target} goes on for more than {format_duration(times.stuck)}.",
            _absence(times.stuck, after=("Running",), expect=FINISHED_STATES, match_related=[runs]),
            f"Millrace: target {target}: a run takes too long",
            f"{LABEL} goes on for more than {format_duration(times.stuck)}. The next one waits for "
            f"it.\n{LINK}\nWhat it does: {LOGS}\nTo stop it, so that the next goes on from there: "
            f"{CANCEL}",
        )
    if times.missing is not None and scheduled:
        problem = (
            f"No run of the pipeline for {target} has completed within "
            f"{format_duration(times.missing)}."
        )
        pipeline = {"prefect.resource.role": "flow", "prefect.resource.name": PIPELINE}
        yield Finding(
            "missing",
            problem,
            _absence(
                times.missing, after=("Completed",), expect=("Completed",),
                match_related=[runs, pipeline], for_each=(),
            ),
            f"Millrace: target {target} was not refreshed",
            f"{problem}{{% if flow_run %}} The last that did: {LINK}{{% endif %}}\n"
            f"Check: {health}",
        )  # fmt: skip
    if times.crashed:
        yield Finding(
            "crashed",
            f"A run of {target} crashed without reporting.",
            _event({
                "posture": "Reactive", "expect": [f"{EVENT}Crashed"], "match_related": [runs],
            }),
            f"Millrace: target {target}: a run crashed",
            f"{LABEL} crashed without reporting: it was killed, ran out of memory, or its machine "
            f"is gone. The next run goes on where it stopped.\n{LINK}\nWhat it said last: {LOGS}\n"
            "To go on now: "
            "{% if deployment %}uv run prefect deployment run {{ flow.name }}/{{ deployment.name }}"
            f"{{% else %}}uv run millrace run --target {target}{{% endif %}}",
        )  # fmt: skip


def build_zombie_finding(after: timedelta) -> Finding:
    """Return the finding for runs that are shown as running, but whose process is gone."""
    return Finding(
        "zombies",
        f"A run whose heartbeats stop for {format_duration(after)} is set to Crashed.",
        _event({
            "posture": "Proactive",
            "after": [HEARTBEAT],
            "expect": [HEARTBEAT, *(f"{EVENT}{state}" for state in FINISHED_STATES)],
            "for_each": list(EACH_RUN),
            "match_related": [_related_tag(run_tag("*"))],
            "within": after.total_seconds(),
        }),
    )  # fmt: skip


def _absence(
    within: timedelta,
    *,
    after: Iterable[str],
    expect: Iterable[str],
    match_related: list[dict[str, str]],
    for_each: Iterable[str] = EACH_RUN,
) -> dict[str, Any]:
    return _event({
        "posture": "Proactive",
        "after": [f"{EVENT}{state}" for state in after],
        "expect": [f"{EVENT}{state}" for state in expect],
        "for_each": list(for_each),
        "match_related": match_related,
        "within": within.total_seconds(),
    })  # fmt: skip


def _event(given: dict[str, Any]) -> dict[str, Any]:
    return {"type": "event", "match": dict(RUN), **given}


def _related_tag(tag: str) -> dict[str, str]:
    return {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"}
