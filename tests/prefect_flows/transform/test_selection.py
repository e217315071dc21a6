"""What a person selects stays a value: dbt reads no word of it as an option, nor does a shell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from dbt.cli.main import cli

from prefect_flows.transform.session import Selection
from tests.support.project import Scratch

OPTION = "--record-timing-info /tmp/never-written"


def read_by_dbt(arguments: list[str]) -> dict[str, Any]:
    """What dbt's own command line makes of them."""
    command = cli.commands["run"]
    common = ["--no-write-json", "--project-dir", "/", "--profiles-dir", "/", "--target", "dev"]
    return command.make_context("run", [*arguments, *common]).params


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ()),
        (["a"], ("a",)),
        (["a b", "c"], ("a", "b", "c")),
        (["  a \n b\t"], ("a", "b")),
        ([f"a {OPTION}"], ("a", *OPTION.split())),
        ([OPTION], tuple(OPTION.split())),
        (["-x"], ("-x",)),
        (["--", "a"], ("--", "a")),
        (["a=b"], ("a=b",)),
        (["it's"], ("it's",)),
        ([""], ("",)),
        ([" "], ("",)),
        (["", "a"], ("", "a")),
    ],
)
@pytest.mark.parametrize("option", ["select", "exclude"])
def test_a_value_is_not_an_option_of_dbt(option: str, given: list[str], words: tuple[str]) -> None:
    selection = Selection(**{option: given}, deferred_to=Path("state"))

    read = read_by_dbt(selection.arguments())

    assert read[option] == words
    others = read_by_dbt(["--state=state"])
    assert {name for name in read if read[name] != others[name]} <= {option}
    assert read_by_dbt(shlex.split(str(selection))) == read


def test_nothing_selects_nothing_and_an_option_in_a_selection_is_a_name(
    scratch: Scratch,
) -> None:
    """As on dbt's command line."""
    kept = scratch.folder / "kept"
    kept.write_text("as it was")
    for selected in ("", f"no_such --record-timing-info {kept.name}"):
        listed = scratch.dbt("ls", "--quiet", "--target", "scratch", "--select", selected)
        assert (listed.returncode, listed.stdout) == (0, ""), listed.stdout + listed.stderr

        done = scratch.run_pipeline("--no-prefect", "--select", selected)

        assert done.returncode == 2, done.stdout + done.stderr
        assert "SelectionError: The selection matches no node" in done.stderr
        assert shlex.quote(f"--select={selected}") in done.stderr
    assert scratch.relations() == set()
    assert kept.read_text() == "as it was"
