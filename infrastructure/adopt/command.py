"""`millrace adopt`: bring a dbt project that exists already."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from infrastructure.adopt import change
from infrastructure.adopt.change import Choices
from infrastructure.adopt.foreign_profiles import ForeignTargets, read_targets
from infrastructure.adopt.project_files import PROFILES_FILE, ForeignProject, open_project
from infrastructure.local import postgres
from infrastructure.local.files import lock_local_dir
from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.environment import set_variables
from prefect_flows.core.errors import ConfigurationError, ProjectError
from prefect_flows.core.git import BATCH, is_tracked
from prefect_flows.core.settings import load_settings
from prefect_flows.core.temporary_folders import private_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infrastructure.adopt.graph import Graph
    from infrastructure.adopt.proof import Proof
    from infrastructure.local.postgres import Postgres
    from prefect_flows.transform.session import DbtSession

app = typer.Typer(add_completion=False)
# The target of the proof, if the project has no profiles.yml.
DEFAULT_TARGET = "dev"
NO_MARTS = "none"
PASSED = frozenset({"success", "pass", "warn"})


@app.command()
@exits_with_expected_errors
def adopt(
    project: Annotated[
        str, typer.Argument(metavar="PATH|GIT-URL", help="The dbt project, or its repository.")
    ],
    subfolder: Annotated[
        str | None, typer.Option(help="Folder of the dbt project, if it is not the first one.")
    ] = None,
    profiles_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of its profiles.yml; by default the project, if it has one."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Take only this target of profiles.yml; repeatable. All by default."),
    ] = None,
    marts: Annotated[
        list[str] | None,
        typer.Option(help="Folder whose models are marts; repeatable. `none` if there are none."),
    ] = None,
    no_proof: Annotated[
        bool, typer.Option("--no-proof", help="Do not run the project before it is adopted.")
    ] = False,
) -> None:
    """Replace the example with a dbt project, in one commit, after proof that it runs the same.

    The project's files are copied to dbt/ and not changed. Undo it with git revert.
    """
    console = Console(soft_wrap=True, highlight=False)
    settings = load_settings()
    change.check_repository(settings)
    # git and dbt deps would ask a terminal for passwords, and wait.
    with private_folder("adopt") as scratch, set_variables(BATCH):
        foreign = open_project(project, subfolder, scratch)
        console.print(f"{foreign.document['name']}: {len(foreign.files)} files of {project}")
        targets = _read_targets(console, foreign, profiles_dir, target or ())
        foreign = _without_plain_secrets(console, foreign, targets)
        adapter = _get_adapter(targets)
        if adapter != "postgres" and not no_proof:
            raise ConfigurationError(
                f"The project is written for {adapter}, which the embedded Postgres cannot prove.",
                where=project,
                fix="adopt it without proof (--no-proof), then compare a run of its own target",
            )
        foreign.copy(scratch / "dbt")
        with lock_local_dir(settings.local_dir, "local-up", 300):
            server = postgres.start(settings.local_dir)
        graph, proof, folders = _examine(
            console, foreign, scratch, server, targets, marts, prove=not no_proof
        )
        made = change.commit(
            settings,
            scratch,
            foreign,
            Choices(folders, graph.skipped_stages, _get_warehouses(targets), targets.targets),
            _format_message(foreign, graph, proof),
        )
    _print_end(console, made, foreign, targets, graph)


def _read_targets(
    console: Console,
    project: ForeignProject,
    profiles_dir: Path | None,
    chosen: Sequence[str],
) -> ForeignTargets:
    file = (profiles_dir or project.folder) / PROFILES_FILE
    if not file.exists():
        if profiles_dir is not None or chosen:
            raise ConfigurationError(
                f"There is no {PROFILES_FILE}.",
                where=str(file),
                fix="name its folder: --profiles-dir FOLDER",
            )
        console.print(
            f"{PROFILES_FILE}: the project has none, so the embedded dev is the only target; "
            "--profiles-dir FOLDER reads yours"
        )
        return ForeignTargets()
    targets = read_targets(file, project.profile, chosen)
    for name, target in targets.targets.items():
        further = targets.passed_through.get(name)
        also = f", also {', '.join(further)}" if further else ""
        console.print(f"{PROFILES_FILE}: target {name} ({target['type']}){also}", markup=False)
    for line in targets.left_out:
        console.print(f"{PROFILES_FILE}: {line}", markup=False)
    _check_contract(targets, file)
    return targets


def _without_plain_secrets(
    console: Console, project: ForeignProject, targets: ForeignTargets
) -> ForeignProject:
    """Leave a profiles.yml with a password out of the commit, unless it is in git already."""
    file = Path(PROFILES_FILE)
    if (
        not targets.has_plain_secrets
        or file not in project.files
        or is_tracked(project.folder / file)
    ):
        return project
    console.print(f"{PROFILES_FILE}: has a password in plain text, and is not copied")
    return replace(project, files=tuple(each for each in project.files if each != file))


def _check_contract(targets: ForeignTargets, file: Path) -> None:
    from infrastructure.setup_profiles.contract import parse_contract

    parse_contract(
        json.dumps({"dbt_targets": {"value": targets.targets}}),
        where=str(file),
        fix="correct the targets, or take others with --target",
    )


def _get_adapter(targets: ForeignTargets) -> str:
    if targets.default is None:
        return "postgres"
    default = targets.targets.get(targets.default) or next(iter(targets.targets.values()))
    return str(default["type"])


def _get_warehouses(targets: ForeignTargets) -> list[str]:
    return sorted({str(each["type"]) for each in targets.targets.values()}) or ["postgres"]


def _examine(
    console: Console,
    project: ForeignProject,
    scratch: Path,
    server: Postgres,
    targets: ForeignTargets,
    marts: list[str] | None,
    *,
    prove: bool,
) -> tuple[Graph, Proof | None, list[str]]:
    """Parse the project, look at its graph, and run it both ways."""
    from infrastructure.adopt import graph as graphs
    from infrastructure.adopt import proof as proofs
    from prefect_flows.core.profiles import Profile
    from prefect_flows.transform.session import DbtSession

    name = targets.default or DEFAULT_TARGET
    adapter = _get_adapter(targets)
    output = (
        proofs.scratch_output(server, "dbt")
        if adapter == "postgres"
        else {"type": adapter, "method": "oauth", "project": "none", "schema": "none", "threads": 1}
    )
    profile = Profile.from_output(project.profile, name, output)
    with DbtSession(scratch / "dbt", profile, scratch / "parsed", {}) as session:
        _parse(session, project, scratch)
        manifest = session.manifest
        found = graphs.inspect(manifest, adapter, ())
        folders = _choose_marts(marts, found.folders)
        found = graphs.inspect(manifest, adapter, folders)
        for line in found.explain():
            console.print(f"graph: {line}", markup=False)
        if not prove:
            console.print("proof: none, as asked")
            return found, None, folders
        console.print("proof: running the pipeline and dbt in two scratch databases")
        with proofs.scratch_databases(server):
            proof = proofs.prove(scratch, server, project.profile, name, manifest, found)
    _print_proof(console, proof)
    if proof.differences:
        listed = "\n".join(f"  - {line}" for line in proof.differences[:20])
        raise proofs.ProofFailed(
            f"dbt and the pipeline differ in {len(proof.differences)} places; nothing was "
            f"changed:\n{listed}",
            where="the embedded Postgres",
            fix="see whether the models read the clock, or sort rows without a key; if it is "
            "right that they differ: --no-proof",
        )
    return found, proof, folders


def _parse(session: DbtSession, project: ForeignProject, scratch: Path) -> None:
    """Install the packages and parse; errors name the project, not the scratch copy."""
    try:
        if session.has_packages():
            session.install_packages()
        assert session.manifest is not None  # noqa: S101 # parses
    except ProjectError as error:
        what = error.what.replace(str(scratch / "dbt"), str(project.folder))
        packages = what.startswith("dbt's packages")
        raise ProjectError(
            what,
            where=project.origin,
            fix=f"see that this works there: dbt {'deps' if packages else 'parse'}"
            + (
                "; a private package needs an SSH key, or a token in the variable that "
                "packages.yml reads"
                if packages
                else ""
            ),
        ) from error


def _choose_marts(marts: list[str] | None, folders: tuple[str, ...]) -> list[str]:
    """Return the folders of marts: as given, the usual one, or as a person answers."""
    if marts is None:
        if "marts" in folders:
            return ["marts"]
        if sys.stdin.isatty():
            answer = typer.prompt(
                f"Which folders hold the models that people read ({', '.join(folders) or 'none'})?"
                f" {NO_MARTS!r} if there are none"
            )
            marts = answer.replace(",", " ").split()
        else:
            raise ConfigurationError(
                "No folder of models is called marts, so it is not known which models people read.",
                where="models: " + (", ".join(folders) or "all in one folder"),
                fix=f"name the folders: --marts {folders[0] if folders else 'FOLDER'}; or "
                f"--marts {NO_MARTS}",
            )
    if marts == [NO_MARTS]:
        return []
    if unknown := [name for name in marts if name not in folders]:
        raise ConfigurationError(
            f"No model is in a folder {', '.join(map(repr, unknown))}; there are: "
            f"{', '.join(folders) or 'none'}.",
            where="--marts",
            fix=f"name one of them, or --marts {NO_MARTS}",
        )
    return marts


def _print_proof(console: Console, proof: Proof) -> None:
    table = Table("table", "rows", "checksum", "not the same")
    for name, rows, checksum, note in proof.tables:
        table.add_row(name, f"{rows:,}", checksum, note)
    console.print(table)
    if proof.differences:
        return
    statuses = ", ".join(f"{number} {status}" for status, number in proof.statuses.items())
    console.print(f"proof: nodes by status, the same for both: {statuses or 'none ran'}")
    if not_run := sum(n for status, n in proof.statuses.items() if status not in PASSED):
        console.print(
            f"proof: {not_run} of these failed or were skipped, with dbt and with the pipeline"
        )


def _format_message(project: ForeignProject, graph: Graph, proof: Proof | None) -> str:
    """Return the commit's message, with what was found and proved."""
    proved = "Nothing was run before the adoption."
    if proof is not None:
        statuses = ", ".join(f"{number} {status}" for status, number in proof.statuses.items())
        proved = (
            "dbt and the pipeline gave the same on the embedded Postgres: "
            f"{statuses or 'no node'}; {len(proof.tables)} tables."
        )
    lines = [*graph.explain(), proved]
    name = str(project.document["name"])[:40]
    return f"Adopt the dbt project {name}\n\n" + "\n".join(
        ["The shipped example goes; git revert of this commit brings it back.", "", *lines]
    )


def _print_end(
    console: Console, made: str, project: ForeignProject, targets: ForeignTargets, graph: Graph
) -> None:
    skip = "".join(f" --skip {stage}" for stage in graph.skipped_stages)
    console.print(f"\nAdopted {project.document['name']} in commit {made}. What next:")
    console.print("  uv sync                  leave out what only the example needed")
    if "postgres" in _get_warehouses(targets):
        console.print("  uv run quickstart        build it on the embedded Postgres, target dev")
    if targets.targets:
        console.print(
            f"  uv run millrace setup --outputs {change.TARGETS}\n"
            "                           make the blocks of its own targets "
            "(secrets: documentation/how_to/bring_your_project.md)"
        )
        first = next(iter(targets.targets))
        console.print(f"  uv run millrace run --target {first}{skip}")
    console.print("  uv run pytest            run the engine's tests")
    console.print(f"  git revert {made}       undo the adoption", markup=False)
