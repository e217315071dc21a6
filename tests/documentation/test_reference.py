"""The reference says what the code says, and leaves nothing out."""

from __future__ import annotations

import os
import re

import pytest
from typer.testing import CliRunner

from infrastructure.ci.reference.command import build_pages
from infrastructure.ci.reference.commands import find_programs
from infrastructure.ci.reference.schemas import build_rows
from infrastructure.cli import app
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import PREFIX, Settings
from tests.support import fork_server
from tests.support.project import REPOSITORY, Project, copy_of_the_project

pytestmark = pytest.mark.docs

FIX = "uv run millrace reference"


def test_every_page_says_what_the_code_says() -> None:
    stale = [
        str(page) for page, text in build_pages().items() if (REPOSITORY / page).read_text() != text
    ]
    assert stale == [], f"not up to date: {FIX}"


def test_every_command_has_help() -> None:
    for program in find_programs(REPOSITORY):
        if program.subcommand is not None:
            result = CliRunner().invoke(app, [*program.name.split()[1:], "--help"])
            code, said = result.exit_code, result.stdout
        elif program.command is None:
            done = fork_server.run(
                ["-m", program.name, "--help"], cwd=REPOSITORY, env=dict(os.environ)
            )
            code, said = done.returncode, done.stdout
        else:
            own = program._app()
            assert own is not None
            result = CliRunner().invoke(own, ["--help"])
            code, said = result.exit_code, result.stdout
        assert code == 0, f"{program.name}: {said}"
        assert re.search("usage", said, re.IGNORECASE), f"{program.name}: {said}"


def test_every_module_that_is_started_as_a_program_is_there() -> None:
    """Looked for in another way than the reference does: as text, in what git would keep."""
    guarded = {
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__main__")
        for package in ("infrastructure", "prefect_flows")
        for file in (REPOSITORY / package).rglob("*.py")
        if "source_template" not in file.parts
        and '\nif __name__ == "__main__":' in file.read_text()
    }
    text = (REPOSITORY / "documentation/reference/commands.md").read_text()
    # What `millrace` runs too.
    promised = {"prefect_flows.pipeline", "infrastructure.setup_profiles", "infrastructure.cli"}
    others = {name for name in guarded if not name.startswith("prefect_flows.sources.")}
    assert others - promised <= set(re.findall(r"^## (\S+)$", text, re.MULTILINE))
    # Also a folder that is a program without a guard.
    folders = {
        ".".join(file.parent.relative_to(REPOSITORY).parts)
        for package in ("infrastructure", "prefect_flows")
        for file in (REPOSITORY / package).rglob("__main__.py")
    }
    assert folders <= guarded


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return copy_of_the_project(tmp_path_factory.mktemp("reference") / "millrace")


def test_a_command_that_is_new_makes_the_check_fail_until_the_pages_are_written(
    copy: Project,
) -> None:
    (copy.folder / "infrastructure" / "weigh.py").write_text(
        '"""`python -m infrastructure.weigh`: how heavy a target is."""\n\n'
        "from typing import Annotated\n\nimport typer\n\n\n"
        'def main(grams: Annotated[int, typer.Option(help="As shown.")] = 5) -> None:\n'
        '    """Weigh it."""\n\n\n'
        'if __name__ == "__main__":\n    typer.run(main)\n'
    )
    checked = copy.run("-m", "infrastructure.cli", "reference", "--check")
    written = copy.run("-m", "infrastructure.cli", "reference")
    again = copy.run("-m", "infrastructure.cli", "reference", "--check")

    assert checked.returncode == 1, checked.stderr
    assert "commands.md: out of date" in checked.stdout
    assert f"fix: {FIX}" in checked.stdout
    assert written.returncode == again.returncode == 0
    text = (copy.folder / "documentation/reference/commands.md").read_text()
    assert "## infrastructure.weigh\n\nHow heavy a target is.\n\nWeigh it." in text
    assert "| `--grams INT` | `5` | As shown. |" in text
    assert str(copy.folder) not in text
    assert os.environ["HOME"] not in text


def test_an_option_or_a_setting_without_a_word_is_refused(copy: Project) -> None:
    (copy.folder / "infrastructure" / "weigh.py").write_text(
        '"""`python -m infrastructure.weigh`: how heavy a target is."""\n\nimport typer\n\n\n'
        'def main(grams: int = 5) -> None:\n    """Weigh it."""\n\n\n'
        'if __name__ == "__main__":\n    typer.run(main)\n'
    )
    done = copy.run("-m", "infrastructure.cli", "reference", "--check")
    assert done.returncode == ConfigurationError.exit_code
    assert "The option 'grams' has no help text." in done.stderr

    with pytest.raises(ConfigurationError, match="'grams' has no description"):
        build_rows({"properties": {"grams": {"type": "integer"}}}, where="settings.py")


def test_the_example_of_env_names_every_setting_and_no_other() -> None:
    text = (REPOSITORY / ".env.example").read_text()
    named = {name.split("__")[0] for name in re.findall(rf"^# ({PREFIX}\w+)=", text, re.MULTILINE)}
    assert named == {PREFIX + name.upper() for name in Settings.model_fields}


def test_what_is_listed_first_is_what_a_newcomer_types_first() -> None:
    first = [program.line for program in find_programs(REPOSITORY)[:2]]
    assert first == ["uv run millrace quickstart", "uv run millrace up"]
