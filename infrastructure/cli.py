"""`millrace`: one command for everything that you do with a project.

Each subcommand belongs to a module, which is imported only when the subcommand is called, so that
`millrace --help` and shell completion answer immediately.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from typer.core import TyperGroup
from typer.main import get_command

from prefect_flows.core.command_line import report_error
from prefect_flows.core.errors import MillraceError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping


class Subcommand(NamedTuple):
    """A subcommand of `millrace`.

    Attributes:
        module: module that defines it.
        help: one line for `millrace --help`.
        function: name of its function or Typer app in the module.
        of_app: its command in the Typer app; None for the whole app.
    """

    module: str
    help: str
    function: str = "app"
    of_app: str | None = None

    @property
    def is_part(self) -> bool:
        """Whether its module also defines other subcommands."""
        return self.of_app is not None or self.module == __name__


RESOURCES = "infrastructure.prefect_resources"
GROUPS: Mapping[str, Mapping[str, Subcommand]] = {
    "Start": {
        "quickstart": Subcommand(
            "infrastructure.local.quickstart",
            "Start both servers, run setup, and build the project.",
            "quickstart",
        ),
        "up": Subcommand(
            "infrastructure.local.command",
            "Start the Postgres and the Prefect server of this folder.",
            of_app="up",
        ),
        "down": Subcommand(
            "infrastructure.local.command", "Stop both; what they hold stays.", of_app="down"
        ),
        "status": Subcommand(
            "infrastructure.local.command", "Show whether both servers run.", of_app="status"
        ),
        "adopt": Subcommand(
            "infrastructure.adopt.command", "Bring a dbt project in the place of the example."
        ),
        "update": Subcommand(
            "infrastructure.update.command", "Update the engine; your own files stay."
        ),
    },
    "Run": {
        "run": Subcommand("prefect_flows.pipeline", "Ingest, run and test the models of a target."),
        "ingest": Subcommand("infrastructure.cli", "Load one source into a target.", "ingest"),
        "publish": Subcommand(
            "prefect_flows.publish.command", "Show what readers see, or the previous version again."
        ),
        "report": Subcommand("prefect_flows.reporting.command", "Serve the reports of the runs."),
    },
    "Set up": {
        "setup": Subcommand(
            "infrastructure.setup_profiles.__main__", "Make Prefect blocks of Terraform's outputs."
        ),
        "secret": Subcommand(f"{RESOURCES}.secrets", "Store a secret in a Prefect block."),
        "pools": Subcommand(f"{RESOURCES}.work_pools.command", "Create or update work pools."),
        "deploy": Subcommand(f"{RESOURCES}.deployments.command", "Deploy the flows of a target."),
        "automations": Subcommand(
            f"{RESOURCES}.automations.command", "Create or update Prefect automations."
        ),
        "worker": Subcommand(f"{RESOURCES}.worker", "Start a worker that lets its runs finish."),
    },
    "Operate": {
        "health": Subcommand(
            "infrastructure.operate.health_check.command", "Check the whole installation."
        ),
        "deadlines": Subcommand(
            "infrastructure.operate.deadlines", "Notify owners of deadlines that are missed."
        ),
        "rollback": Subcommand(
            f"{RESOURCES}.rollback.command", "Go back to an earlier release of a target."
        ),
        "backup": Subcommand(
            "infrastructure.operate.backup.command", "Back up or restore Prefect's database."
        ),
    },
    "Deliver": {
        "check": Subcommand("infrastructure.cli", "Check the project's files.", "check"),
        "pr": Subcommand(
            "infrastructure.ci.pull_request.command", "Build and compare a pull request."
        ),
        "release": Subcommand("infrastructure.delivery.release.command", "Make a release."),
        "image": Subcommand("infrastructure.delivery.build_image", "Build the container image."),
        "deliver": Subcommand(
            "infrastructure.delivery.command", "Deliver a release to a host or a cluster."
        ),
        "reference": Subcommand(
            "infrastructure.ci.reference.command", "Generate the reference pages."
        ),
    },
}
CHECKS = {
    "sources": Subcommand(
        "infrastructure.ci.check_sources.command", "Check the sources without running them."
    ),
    "models": Subcommand(
        "infrastructure.ci.check_models.command",
        "Check the SQL of all models and tests for both warehouses.",
        of_app="models",
    ),
    "lineage": Subcommand(
        "infrastructure.ci.check_models.command",
        "Show where a column comes from, and what uses it.",
        of_app="lineage",
    ),
}
# Other names of subcommands, for those who expect them.
ALIASES = {"start": "up", "stop": "down"}
SUBCOMMANDS = {name: each for group in GROUPS.values() for name, each in group.items()}


class LazyGroup(TyperGroup):
    """A command group that imports a command's module only when the command is used."""

    def subcommands(self) -> Mapping[str, Subcommand]:
        """Return all subcommands by name."""
        return SUBCOMMANDS

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names of all subcommands, in the order of the help."""
        return list(self.subcommands())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Import a subcommand; return None if there is none of that name."""
        found = self.subcommands().get(cmd_name)
        return None if found is None else load(cmd_name, found)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the subcommand; suggest a similar name if there is none."""
        names = self.subcommands()
        if args[0] not in names:
            ctx.fail(f"No such command {args[0]!r}.{did_you_mean(args[0], names)}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete the name of a subcommand without importing any."""
        completed = super().shell_complete(ctx, incomplete) if incomplete.startswith("-") else []
        # Since 0.26, Typer bundles its own copy of Click.
        package = TyperGroup.__mro__[1].__module__.rpartition(".")[0]
        item = import_module(f"{package}.shell_completion").CompletionItem
        return completed + [
            item(name, help=each.help)
            for name, each in self.subcommands().items()
            if name.startswith(incomplete)
        ]


class MillraceGroup(LazyGroup):
    """The `millrace` command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the subcommand, also by its other name."""
        return super().resolve_command(ctx, [ALIASES.get(args[0], args[0]), *args[1:]])

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Print the subcommands in groups, without importing any."""
        console = Console(highlight=False)
        console.print("\nUsage: [bold]millrace[/bold] COMMAND [ARGUMENTS]\n", markup=True)
        for title, group in GROUPS.items():
            table = Table.grid(padding=(0, 2))
            table.add_column(width=max(map(len, SUBCOMMANDS)), style="bold cyan")
            for name, each in group.items():
                table.add_row(name, each.help)
            console.print(f"[bold]{title}[/bold]")
            console.print(Padding(table, (0, 2)))
        console.print("\nmillrace COMMAND --help shows the options of a command.")
        console.print("millrace --install-completion completes commands in your shell.\n")


class Sources(LazyGroup):
    """The sources of the project, each with the options of its flow."""

    def subcommands(self) -> Mapping[str, Subcommand]:
        """Return all sources by name."""
        from prefect_flows.ingest import source_registry

        return {
            name: Subcommand(f"{source_registry.PACKAGE}.{name}.flow", "", "main")
            for name in source_registry.source_names()
        }


class Checks(LazyGroup):
    """Checks of the project's files, which need no server."""

    def subcommands(self) -> Mapping[str, Subcommand]:
        """Return all checks by name."""
        return CHECKS


app = typer.Typer(cls=MillraceGroup, no_args_is_help=True)
ingest = typer.Typer(cls=Sources, no_args_is_help=True)
check = typer.Typer(cls=Checks, no_args_is_help=True)


@app.callback()
def _millrace() -> None:
    """One command for everything that you do with a project."""


@ingest.callback()
def _ingest() -> None:
    """Load one source into a target."""


@check.callback()
def _check() -> None:
    """Check files of the project without running them."""


def main() -> None:
    """Run `millrace`: entry point of the console script."""
    try:
        app(prog_name="millrace")
    except MillraceError as error:
        # Commands report their own; `ingest` finds the sources before it has a command.
        report_error(error)
        sys.exit(error.exit_code)


def load(name: str, subcommand: Subcommand) -> Any:
    """Import a subcommand and build its Click command."""
    # Garbage collection during the imports takes a quarter of the start time and frees nothing.
    gc.disable()
    found = getattr(import_module(subcommand.module), subcommand.function)
    gc.enable()
    if not isinstance(found, typer.Typer):
        single = typer.Typer()
        single.command()(found)
        found = single
    found._add_completion = False  # noqa: SLF001 # `millrace` has it
    command: Any = get_command(found)
    if subcommand.of_app is not None:
        command = command.commands[subcommand.of_app]
    command.name = name
    return command


if __name__ == "__main__":
    main()
