"""Generate the reference of all commands and their options."""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from typer.main import get_command

from infrastructure.ci.reference.markdown import escape_cell
from infrastructure.cli import SUBCOMMANDS, LazyGroup, Subcommand, load
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.markup import markdown_table
from prefect_flows.ingest import source_registry

PACKAGES = ("infrastructure", "prefect_flows")
# A cookiecutter template: its files are not valid Python.
NOT_MODULES = ("infrastructure/config/source_template",)


@dataclass(frozen=True)
class Program:
    """A subcommand of `millrace`, or another module that can be run.

    Attributes:
        name: `millrace deploy`, or the module's name.
        line: the command line that runs it.
        file: file of the module.
        tree: syntax tree of the module, whose docstring is the description.
        subcommand: the subcommand; None for other modules.
    """

    name: str
    line: str
    file: Path
    tree: ast.Module
    subcommand: Subcommand | None = None

    @property
    def description(self) -> str:
        """The module's docstring without the command's name at the beginning."""
        if self.subcommand is not None and self.subcommand.is_part:
            return _help(self.command)
        text = ast.get_docstring(self.tree) or ""
        if not text:
            raise ConfigurationError(
                "A program has no docstring.",
                where=str(self.file),
                fix="say in its first lines what it is for",
            )
        head, colon, rest = text.partition(":")
        text = rest.strip() if colon and head.strip().endswith("`") else text
        paragraphs = [
            f"```text\n{part}\n```" if part.startswith("uv run ") else part
            for part in text.split("\n\n")
        ]
        return "\n\n".join([get_first_sentence(paragraphs[0]), *paragraphs[1:]])

    @property
    def summary(self) -> str:
        """One-line description."""
        if self.subcommand is not None:
            return self.subcommand.help
        alone = self.command is not None and not hasattr(self.command, "commands")
        text = _help(self.command) if alone else self.description
        return text.partition("\n\n")[0]

    @cached_property
    def command(self) -> Any:
        """Typer command; None for a module that parses its arguments itself."""
        if self.subcommand is not None:
            return load(self.name.rpartition(" ")[2], self.subcommand)
        app = self._app()
        return None if app is None else get_command(app)

    def _app(self) -> typer.Typer | None:
        """Return the Typer app of the module: its `app`, or one made from its `typer.run(…)`."""
        module = importlib.import_module(self.name)
        app = getattr(module, "app", None)
        if isinstance(app, typer.Typer):
            return app
        for node in ast.walk(self.tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="typer"), attr="run"),
                    args=[ast.Name(id=name)],
                ):
                    app = typer.Typer(add_completion=False)
                    app.command()(getattr(module, name))
                    return app
        return None


def find_programs(root: Path) -> list[Program]:
    """Return the subcommands of `millrace` in the order of its help, then other modules by name."""
    found = []
    for name, subcommand in SUBCOMMANDS.items():
        file = root.joinpath(*subcommand.module.split(".")).with_suffix(".py")
        tree = ast.parse(file.read_text(encoding="utf-8"))
        command = f"millrace {name}"
        found.append(Program(command, f"uv run {command}", file, tree, subcommand))
    # Already listed as subcommands.
    known = {subcommand.module for subcommand in SUBCOMMANDS.values()}
    others = []
    for package in PACKAGES:
        for file in (root / package).rglob("*.py"):
            path = file.relative_to(root)
            if any(path.is_relative_to(folder) for folder in NOT_MODULES):
                continue
            module = ".".join(path.with_suffix("").parts)
            is_source = module.startswith(f"{source_registry.PACKAGE}.")
            if module in known or is_source:
                continue
            tree = ast.parse(file.read_text(encoding="utf-8"))
            if any(_is_guard(node) for node in tree.body):
                others.append(Program(module, f"uv run python -m {module}", path, tree))
    return found + sorted(others, key=lambda program: program.name)


def _is_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)


def get_first_sentence(text: str) -> str:
    """Capitalize the first letter; a code span stays as it is."""
    return text[:1].upper() + text[1:]


def build_page(root: Path) -> str:
    """Generate the page of all commands."""
    all_of_them = find_programs(root)
    overview = markdown_table(
        ["command", "what it does"],
        [
            [f"[`{program.name}`](#{get_anchor(program.name)})", escape_cell(program.summary)]
            for program in all_of_them
        ],
    )
    return "\n\n".join([
        "# Commands",
        "Every command prints the same text with `--help`. Errors go to standard error, with a "
        "fix, and the exit code is not 0.",
        overview,
        *(_section(program) for program in all_of_them),
    ])  # fmt: skip


def get_anchor(heading: str) -> str:
    """Return the anchor that GitHub and mkdocs generate for a heading."""
    return heading.lower().replace(".", "").replace(" ", "-")


def _section(program: Program) -> str:
    parts = [f"## {program.name}", program.description]
    command = program.command
    if command is None:
        parts.append(f"```text\n{program.line}\n```")
        return "\n\n".join(parts)
    subcommands = getattr(command, "commands", None)
    if isinstance(command, LazyGroup):
        subcommands = {name: load(name, each) for name, each in command.subcommands().items()}
    if subcommands is None:
        if (text := _help(command)) not in program.description:
            parts.append(text)
        parts += _usage(program.line, command)
        return "\n\n".join(parts)
    for name, subcommand in subcommands.items():
        parts += [f"### {program.name} {name}", _help(subcommand)]
        parts += _usage(f"{program.line} {name}", subcommand)
    return "\n\n".join(parts)


def _help(command: Any) -> str:
    # `Raises:` is for developers, not for users of the command.
    return str(command.help or "").split("\nRaises:")[0].strip()


def _usage(line: str, command: Any) -> list[str]:
    pieces = [line]
    options = [p for p in command.params if p.param_type_name == "option"]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    pieces += [f"{_name(option)} {_metavar(option)}" for option in options if option.required]
    if any(not option.required for option in options):
        pieces.append("[OPTION…]")
    pieces += [
        f"{argument.name.upper()}{'…' if argument.nargs == -1 else ''}"
        if argument.required
        else f"[{argument.name.upper()}{'…' if argument.nargs == -1 else ''}]"
        for argument in arguments
    ]
    usage = f"```text\n{' '.join(pieces)}\n```"
    rows = [
        [_term(p), _default(p), escape_cell(_help_with_envvar(p))] for p in [*arguments, *options]
    ]
    return [usage, markdown_table(["option", "default", "what it is"], rows)] if rows else [usage]


def _name(option: Any) -> str:
    return str(max(option.opts, key=len))


def _metavar(option: Any) -> str:
    kind = option.type_descriptor.annotation
    if get_origin(kind) is list:
        (kind,) = get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(member.value) for member in kind)
    kind = getattr(option.type_descriptor.parameter_info, "parser", None) or kind
    return str(getattr(kind, "__name__", "TEXT")).upper().replace("STR", "TEXT")


def _term(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{param.name.upper()}`"
    if getattr(param, "is_flag", False):
        return ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
    return f"`{_name(param)} {_metavar(param)}`".replace("|", r"\|")


def _default(param: Any) -> str:
    if param.required:
        return "required"
    value = param.default
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Path):
        value = _machine_independent(value)
    return "" if value in (None, False, [], (), "") else f"`{value}`"


def _machine_independent(path: Path) -> str:
    """Format a path without the parts that depend on the machine."""
    root = Path(__file__).resolve().parents[3]
    for folder, shown in ((root, ""), (Path.home(), "~/")):
        if path.is_relative_to(folder):
            return f"{shown}{path.relative_to(folder).as_posix()}"
    return str(path)


def _help_with_envvar(param: Any) -> str:
    text = str(param.help or "")
    if not text:
        raise ConfigurationError(
            f"The option '{param.name}' has no help text.",
            where="a command of the project",
            fix='give it `typer.Option(help="…")`, or `typer.Argument(help="…")`',
        )
    if param.envvar:
        text += f" Environment: `{param.envvar}`."
    return text
