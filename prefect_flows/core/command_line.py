"""Parts of command lines: expected errors and exit codes, numbers that are finite."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec

import typer
from rich.console import Console
from typer.core import TyperCommand

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


def report_error(error: MillraceError) -> None:
    """Print an expected error to stderr, without a traceback."""
    console = Console(stderr=True)
    for text in (error.details, f"{type(error).__name__}: {error}"):
        if text is not None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def exits_with_expected_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command: print a `MillraceError` to stderr, no traceback, and exit with its code."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except MillraceError as error:
            report_error(error)
            raise typer.Exit(error.exit_code) from error

    return wrapped


class CommandWithLists(TyperCommand):
    """A command whose repeatable options also take several values, as dbt's: `--select a b`.

    Only for commands without arguments: these would look like further values.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its values."""
        lists = {o for p in self.params if getattr(p, "multiple", False) for o in p.opts}
        spread: list[str] = []
        option = None
        for place, arg in enumerate(args):
            if arg == "--":
                spread += args[place:]
                break
            if arg.startswith("-"):
                name = arg.partition("=")[0]
                option = name if name in lists else None
            elif option is not None and spread[-1] != option:
                spread.append(option)
            spread.append(arg)
        return super().parse_args(ctx, spread)
