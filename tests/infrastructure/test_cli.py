"""`millrace`: its help, its suggestions, and what it imports for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from infrastructure.cli import CHECKS, GROUPS, SUBCOMMANDS, app, load
from prefect_flows.ingest import source_registry
from tests.support.project import REPOSITORY

LINES_OF_A_SCREEN = 45
PR_COMPARE = [
    "pr", "compare", "--number", "1", "--target", "ci", "--production", "dev", "--output", "c.md",
]  # fmt: skip
# Prints what of these was imported, after the output of `millrace`.
IMPORTED = """
import sys
from infrastructure import cli
try:
    cli.app(prog_name="millrace")
finally:
    print(sorted({"prefect", "dbt", "dlt"} & sys.modules.keys()))
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", IMPORTED, *arguments], cwd=REPOSITORY, env=os.environ | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_the_help_fits_one_screen_and_imports_no_command(arguments: list[str]) -> None:
    done = run(*arguments, COLUMNS="80")
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    assert len(lines) < LINES_OF_A_SCREEN
    assert max(map(len, lines)) <= 80
    shown = [line.split()[0] for line in lines if line.startswith("  ")]
    assert shown == [name for group in GROUPS.values() for name in group]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deplo"], "No such command 'deplo'. Did you mean 'deploy'?"),
        pytest.param(
            ["ingest", "nyc_flights"],
            "No such command 'nyc_flights'. Did you mean 'nyc__flights'?",
            marks=pytest.mark.example,
        ),
        (["check", "source"], "No such command 'source'. Did you mean 'sources'?"),
    ],
)
def test_a_command_that_is_not_there_is_answered_with_a_similar_one(
    arguments: list[str], said: str
) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["health"], "--timeout"),
        (["rollback", "dev"], "--drain-timeout"),
        (["rollback", "dev"], "--verify-timeout"),
        (["worker", "--pool", "local"], "--patience"),
        (PR_COMPARE, "--seconds"),
        (PR_COMPARE, "--gigabytes"),
    ],
)
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_limit_is_a_finite_number(command: list[str], option: str, value: str) -> None:
    result = CliRunner().invoke(app, [*command, option, value])
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--select", "a", "b+", "--exclude", "c"], {"select": ["a", "b+"], "exclude": ["c"]}),
        (["--select=a", "b", "--select", "c"], {"select": ["a", "b", "c"]}),
        (["--skip", "docs", "test", "--changed"], {"skip": ["docs", "test"], "changed": True}),
        (["--vars", "{days: 3, at: 1e5}"], {"vars": "{days: 3, at: 1e5}"}),
    ],
)
def test_an_option_of_a_run_takes_several_values_as_in_dbt(
    given: list[str], read: dict[str, object]
) -> None:
    command = load("run", SUBCOMMANDS["run"])
    parameters = command.make_context("run", list(given)).params
    assert {name: parameters[name] for name in read} == read


def test_names_are_completed_without_importing_a_command() -> None:
    done = run(COMP_WORDS="millrace de", COMP_CWORD="1", _MILLRACE_COMPLETE="complete_bash")
    assert done.stdout.split() == ["deploy", "deadlines", "deliver", "[]"]


@pytest.mark.parametrize(("alias", "name"), [("start", "up"), ("stop", "down")])
def test_servers_are_also_started_and_stopped(alias: str, name: str) -> None:
    result = CliRunner().invoke(app, [alias, "--help"])
    assert result.exit_code == 0
    assert f" {name} [OPTIONS]" in result.stdout


@pytest.mark.parametrize("name", [*SUBCOMMANDS, *CHECKS])
def test_every_command_is_there(name: str) -> None:
    command = load(name, (SUBCOMMANDS | CHECKS)[name])
    assert command.name == name
    assert command.help


def test_every_source_is_a_command() -> None:
    result = CliRunner().invoke(app, ["ingest", "--help"])
    assert result.exit_code == 0
    for name in source_registry.source_names():
        assert name in result.stdout
