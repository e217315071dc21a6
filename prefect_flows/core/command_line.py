"""Parts of command lines: expected errors and exit codes, numbers that are finite."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ParamSpec

import typer
from rich.console import Console

from prefect_flows.core.errors import MillraceError

P = ParamSpec("P")

# Exit code of a command that did its work and found a problem: a difference, a fault, a failure.
EXIT_FAILED = 1


def finite(value: float) -> float:
    """Check the value of an option: `inf` would be a limit that never applies.

    Raises:
        typer.BadParameter: the value is not a finite number.
    """
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


def exits_with_expected_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command: print a `MillraceError` to stderr, no traceback, and exit with its code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except MillraceError as error:
            text = f"{type(error).__name__}: {error}"
            Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(error.exit_code) from error

    return wrapped
