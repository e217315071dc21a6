"""`millrace release`: raise the version, move its changelog section, create its tag."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infrastructure.delivery.release import changelog
from infrastructure.delivery.release.version import Part, Version, parse, read_version, set_version
from prefect_flows.core import git
from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import load_settings

PYPROJECT = "pyproject.toml"
BRANCH = "main"

app = typer.Typer(
    help="Make a release: its version, its section of the changelog, its tag.",
    add_completion=False,
    no_args_is_help=True,
)


def _find_folder() -> Path:
    """Return the project's folder.

    Raises:
        ConfigurationError: it has no version, or no changelog.
    """
    folder = load_settings().project_dir
    for name in (PYPROJECT, changelog.FILE):
        if not (folder / name).is_file():
            raise ConfigurationError(
                f"There is no {name}: a release has a version and a section of the changelog.",
                where=str(folder),
                fix="add it, as documentation/delivery.md describes; a project without releases "
                "deploys commits: uv run millrace deploy",
            )
    return folder


@app.command()
@exits_with_expected_errors
def bump(
    part: Annotated[Part, typer.Argument(help="What of MAJOR.MINOR.PATCH is raised.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print version and notes, and stop.")
    ] = False,
) -> None:
    """Commit the next version: its number, and its section of the changelog. No tag, no push.

    What was [Unreleased] becomes the section of the version.
    """
    console = Console(highlight=False)
    folder = _find_folder()
    git.refuse_unclean(folder)
    number, log = folder / PYPROJECT, folder / changelog.FILE
    version = read_version(number).next(part)
    _refuse_tagged(folder, version)
    today = datetime.now(UTC).date()
    before = {file: file.read_text() for file in (number, log)}
    after = {
        number: set_version(before[number], version),
        log: changelog.release_section(before[log], str(version), today),
    }
    notes = changelog.get_section(after[log], str(version)).text
    console.print(f"{version}, {today.isoformat()}\n\n{notes}\n", markup=False, soft_wrap=True)
    if dry_run:
        return
    for file, text in after.items():
        file.write_text(text)
    message = ["--message", f"Release {version}"]
    try:
        git.run(folder, "commit", "--quiet", *message, "--", PYPROJECT, log.name)
    except git.GitError as error:
        for file, text in before.items():
            file.write_text(text)
        raise ConfigurationError(
            f"The commit was not made, and the files are as they were: {error.what}.",
            where=error.where,
            fix="correct that, and run this command again",
        ) from error
    console.print(
        f"Committed. On {BRANCH}, directly or by a pull request:\n  uv run millrace release tag"
    )


@app.command()
@exits_with_expected_errors
def tag() -> None:
    """Tag the checked-out commit with its version. Nothing is pushed."""
    folder = _find_folder()
    git.refuse_unclean(folder)
    branch = git.run(folder, "branch", "--show-current").strip()
    if branch != BRANCH:
        raise ConfigurationError(
            f"Releases are tagged on {BRANCH}, and this is {branch or 'no branch'}.",
            where=str(folder),
            fix=f"git switch {BRANCH} && git pull --ff-only",
        )
    version = read_version(folder / PYPROJECT)
    _refuse_tagged(folder, version)
    section = _get_dated_section(folder, version)
    # Git would drop lines that begin with #, such as headings, as comments.
    git.run(
        folder, "tag", "--annotate", "--cleanup=verbatim",
        "--message", f"Release {version}\n\n{section.text}\n", version.tag,
        fix="correct that, and run this command again",
    )  # fmt: skip
    Console(highlight=False).print(
        f"{version.tag}: tagged. It is released by:\n"
        f"  git push --atomic origin {BRANCH} {version.tag}"
    )


@app.command()
@exits_with_expected_errors
def notes(version: Annotated[str, typer.Argument(help="MAJOR.MINOR.PATCH, or its tag.")]) -> None:
    """Print what a version changed, as the changelog says it."""
    wanted = parse(version, where="VERSION")
    section = changelog.get_section((_find_folder() / changelog.FILE).read_text(), str(wanted))
    # Raw Markdown, without the console's formatting.
    typer.echo(section.text)


@app.command()
@exits_with_expected_errors
def check(name: Annotated[str, typer.Argument(help="The tag that is to be released.")]) -> None:
    """Refuse a tag that does not agree with the number, the changelog, or the commit here."""
    folder = _find_folder()
    version = parse(name, where=f"the tag {name}")
    here = read_version(folder / PYPROJECT)
    if name != version.tag or here != version:
        raise ConfigurationError(
            f"The tag is {name}, and the version of the project is {here}.",
            where=PYPROJECT,
            fix="uv run millrace release bump major|minor|patch, then … tag",
        )
    _get_dated_section(folder, version)
    tagged = git.run(folder, "rev-parse", f"refs/tags/{name}^{{commit}}").strip()
    if tagged != git.run(folder, "rev-parse", "HEAD").strip():
        raise ConfigurationError(
            f"The checked-out commit is not the one of {name}, which is {tagged}.",
            where=str(folder),
            fix=f"git checkout {name}",
        )
    Console(highlight=False).print(f"{name}: number, changelog and commit agree")


def _get_dated_section(folder: Path, version: Version) -> changelog.Section:
    """Return the section of a version; it must have a date."""
    section = changelog.get_section((folder / changelog.FILE).read_text(), str(version))
    if section.day is None:
        raise ConfigurationError(
            f"The section [{version}] has no day.",
            where=changelog.FILE,
            fix=f"let it begin with: ## [{version}] - YYYY-MM-DD",
        )
    return section


def _refuse_tagged(folder: Path, version: Version) -> None:
    if git.run(folder, "tag", "--list", version.tag):
        raise ConfigurationError(
            f"The tag {version.tag} is there already.",
            where=f"git show {version.tag}",
            fix=f"git fetch --tags, and release a later version; a tag that was never pushed: "
            f"git tag --delete {version.tag}",
        )
