"""`millrace health`: run the checks in parallel and print the results."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from infrastructure.operate.health_check.check_result import (
    Check,
    Status,
    get_overall_status,
    redact_check,
    to_document,
)
from infrastructure.operate.health_check.checks import Checks
from infrastructure.operate.health_check.parallel_checks import run_checks
from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors, finite
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.names import TARGET_PATTERN
from prefect_flows.core.settings import load_settings

# Timeout per check, so that one that hangs does not use up the time of the others.
ANSWER_SECONDS = 20.0
COLORS = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "red", Status.SKIPPED: "dim"}

app = typer.Typer(add_completion=False)


@app.command()
@exits_with_expected_errors
def healthcheck(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Targets to look at; all that setup made by default.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, and nothing else.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=1, callback=finite, help="Seconds that all of it may take.")
    ] = 60.0,
) -> None:
    """Ask API, database, pools, workers, deployments, runs, warehouses and state store.

    Exit code 0: nothing failed; 1: something did; 2: the check could not run.
    """
    wrong = [name for name in targets or [] if not re.fullmatch(TARGET_PATTERN, name)]
    if wrong:
        raise ConfigurationError(
            f"Not a target's name: {', '.join(map(repr, wrong))}.",
            where="the command line",
            fix="name targets as Terraform's outputs do: dev, staging, prod",
        )
    # The checks report the errors that libraries would log.
    logging.disable(logging.CRITICAL)
    questions = Checks(load_settings(), targets)
    checks = [redact_check(check, questions.secrets) for check in _run_checks(questions, timeout)]
    if as_json:
        typer.echo(json.dumps(to_document(checks), indent=2))
    else:
        _print(checks)
    if get_overall_status(checks) is Status.FAILED:
        raise typer.Exit(EXIT_FAILED)


def _run_checks(questions: Checks, timeout: float) -> list[Check]:
    """Check API and disk first; if the API responds, run all other checks concurrently."""
    deadline = time.monotonic() + timeout

    def run(jobs: dict[str, Callable[[float], list[Check]]]) -> list[Check]:
        seconds = max(1.0, min(ANSWER_SECONDS, deadline - time.monotonic()))
        results = run_checks({name: partial(call, seconds) for name, call in jobs.items()}, seconds)
        checks = []
        for name, found in results.items():
            if found is None:
                what, _, subject = name.partition(":")
                seen = f"no answer within {seconds:.0f} s"
                checks.append(Check(what, subject, Status.FAILED, seen, seconds=seconds))
                continue
            job_checks, took = found
            checks += [replace(check, seconds=check.seconds or took) for check in job_checks]
        return checks

    first = run({"api": questions.api, "disk": questions.disk})
    if any(check.name == "api" and check.status is Status.FAILED for check in first):
        return [*first, *questions.list_skipped()]
    jobs: dict[str, Callable[[float], list[Check]]] = {
        "database": questions.database,
        "runs": questions.runs,
        "automations": questions.automations,
        "state store": questions.state_store,
    }
    for target in questions.targets:
        jobs[f"warehouse:{target}"] = partial(questions.warehouse, target)
    return first + run(jobs)


def _print(checks: list[Check]) -> None:
    console = Console()
    table = Table("check", "of", "status", "message", "s", title="Health", title_justify="left")
    # In a narrow terminal, only subjects and messages wrap.
    for column in (0, 2, 4):
        table.columns[column].no_wrap = True
    for column in (1, 3):
        table.columns[column].overflow = "fold"
    for check in checks:
        status = f"[{COLORS[check.status]}]{check.status}[/]"
        table.add_row(check.name, check.subject, status, check.message, f"{check.seconds:.1f}")
    console.print(table)
    for check in checks:
        if check.fix is not None:
            text = f"{check.name} {check.subject}".strip() + f": {check.fix}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    count = {status: sum(check.status is status for check in checks) for status in Status}
    parts = ", ".join(f"{count[status]} {status}" for status in reversed(Status) if count[status])
    console.print(f"{get_overall_status(checks)}: {parts}", highlight=False)
