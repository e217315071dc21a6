"""`millrace pr`: build, compare, comment, close, sweep."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infrastructure.ci.dbt_vars import parse_vars
from infrastructure.ci.pull_request.names import MAX_NUMBER, get_schema
from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors, finite
from prefect_flows.core.errors import ConfigurationError

app = typer.Typer(add_completion=False)

Number = Annotated[int, typer.Option(min=1, max=MAX_NUMBER, help="Number of the pull request.")]
Target = Annotated[str, typer.Option(help="Target that pull requests are built with.")]
Production = Annotated[str, typer.Option(help="Target that it is compared with.")]
Repository = Annotated[
    str, typer.Option(envvar="GITHUB_REPOSITORY", help="owner/name of the repository.")
]
NoPrefect = Annotated[
    bool, typer.Option("--no-prefect", help="Without a Prefect API: targets of profiles.yml.")
]
Wait = Annotated[
    float,
    typer.Option(
        min=0, callback=finite, help="Seconds to wait for another build of the pull request."
    ),
]


@app.callback()
def main() -> None:
    """What a pull request changes, beside production: documentation/pull_requests.md."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("millrace").setLevel(logging.INFO)


@app.command()
@exits_with_expected_errors
def build(
    number: Number,
    target: Target,
    production: Production,
    repository: Annotated[
        str | None,
        typer.Option(envvar="GITHUB_REPOSITORY", help="owner/name, written on the schema."),
    ] = None,
    vars: Annotated[
        str, typer.Option(help="Variables of the dbt project, as JSON; same values as production.")
    ] = "{}",
    without_rows: Annotated[
        bool, typer.Option("--without-rows", help="Fetch no rows of failed tests.")
    ] = False,
    wait: Wait = 1800.0,
    no_prefect: NoPrefect = False,
) -> None:
    """Build and test what the pull request changes, and what depends on it, into ci_<number>.

    Exit code 0: all passed; 1: a model or a test failed; 2: nothing was built.
    """
    from infrastructure.ci.pull_request.build import BuildRequest, build
    from infrastructure.ci.pull_request.context import load_context

    context = load_context(target, production, prefect=not no_prefect)
    request = BuildRequest(
        number, production, repository, parse_vars(vars), wait, with_rows=not without_rows
    )
    record = build(request, context)
    console = Console()
    console.print(
        f"{record.schema_name}: {record.outcome}, {len(record.nodes)} models differ, "
        f"{sum(record.tests.values())} tests, {record.seconds:,.1f} s",
        highlight=False,
    )
    if record.outcome in ("failed", "refused"):
        raise typer.Exit(EXIT_FAILED)


@app.command()
@exits_with_expected_errors
def compare(
    number: Number,
    target: Target,
    production: Production,
    output: Annotated[Path, typer.Option(help="File that the comment is written to.")],
    seconds: Annotated[
        float, typer.Option(min=1, callback=finite, help="Maximum seconds for one query.")
    ] = 120.0,
    gigabytes: Annotated[
        float,
        typer.Option(min=0, callback=finite, help="Maximum gigabytes scanned (BigQuery)."),
    ] = 10.0,
    wait: Wait = 1800.0,
    no_prefect: NoPrefect = False,
    sql_check: Annotated[
        Path | None, typer.Option(help="Output of `millrace check models --format json`.")
    ] = None,
) -> None:
    """Compare what was built with production, and write the comment.

    Exit code 0, whatever differs; 2: it cannot be compared.
    """
    from infrastructure.ci.check_models.formats import read_result
    from infrastructure.ci.pull_request.comment import build_comment
    from infrastructure.ci.pull_request.compare import compare, read_manifests
    from infrastructure.ci.pull_request.context import load_context
    from infrastructure.ci.pull_request.warehouse import Limits

    found = None if sql_check is None else read_result(sql_check)
    context = load_context(target, production, prefect=not no_prefect)
    limits = Limits(seconds, round(gigabytes * 1e9))
    build, comparison = compare(number, production, context, limits, wait)
    text = build_comment(build, comparison, *read_manifests(context, number), sql_check=found)
    try:
        output.write_text(text)
    except OSError as error:
        raise ConfigurationError(
            f"The comment cannot be written: {error.strerror}.",
            where=str(output),
            fix="name a file in a folder that you may write to with --output",
        ) from error
    Console().print(f"{output}: {len(text):,} characters", highlight=False, soft_wrap=True)


@app.command()
@exits_with_expected_errors
def comment(
    file: Annotated[Path, typer.Argument(help="The comment that `compare` wrote.")],
    number: Number,
    repository: Repository,
    author: Annotated[str, typer.Option(help="Login of the token's user.")] = "github-actions[bot]",
) -> None:
    """Write the comment on the pull request, or write the one that is there anew.

    GITHUB_TOKEN is the token; GITHUB_API_URL, where it is not github.com.
    """
    from infrastructure.ci.pull_request.comment import MARKER
    from infrastructure.ci.pull_request.github import GitHub

    if not file.exists() or not (text := file.read_text()).startswith(MARKER):
        raise ConfigurationError(
            f"{file} does not exist, or is not a comment that `compare` wrote.",
            where=str(file),
            fix="write it: uv run millrace pr compare --output "
            f"{file} --number {number} --target NAME --production NAME",
        )
    with closing(GitHub(repository)) as github:
        url = github.comment(number, text, author)
    Console().print(url, highlight=False, soft_wrap=True)


@app.command()
@exits_with_expected_errors
def close(
    number: Number, target: Target, wait: Wait = 1800.0, no_prefect: NoPrefect = False
) -> None:
    """Drop the schema of a pull request; only one that is marked as ours."""
    from infrastructure.ci.pull_request.cleanup import close
    from infrastructure.ci.pull_request.context import load_context

    dropped = close(number, load_context(target, None, prefect=not no_prefect), wait)
    result = "dropped" if dropped else "there is none"
    Console().print(f"{get_schema(number)}: {result}", highlight=False)


@app.command()
@exits_with_expected_errors
def sweep(
    target: Target,
    repository: Repository,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print only, drop nothing.")] = False,
    no_prefect: NoPrefect = False,
) -> None:
    """Drop the schemas of pull requests that are no longer open, as GitHub says."""
    from infrastructure.ci.pull_request.cleanup import sweep
    from infrastructure.ci.pull_request.context import load_context
    from infrastructure.ci.pull_request.github import GitHub

    context = load_context(target, None, prefect=not no_prefect)
    with closing(GitHub(repository)) as github:
        found = sweep(context, repository, github.open_pull_requests, dry_run=dry_run)
    for schema, result in found.items():
        Console().print(f"{schema}: {result}", highlight=False, soft_wrap=True)
