"""`millrace reference`: generate `documentation/reference` from the code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infrastructure.ci.reference import commands, schemas
from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors
from prefect_flows.core.project_folder import require_engine
from prefect_flows.core.settings import load_settings

app = typer.Typer(add_completion=False)

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path("documentation") / "reference"
HEAD = "<!-- Made by `uv run millrace reference`; do not edit. -->"


def build_pages() -> dict[Path, str]:
    """Generate every page: path in the project → text."""
    texts = {
        "commands.md": commands.build_page(ROOT),
        "flows.md": schemas.build_flows_page(),
        "settings.md": schemas.build_settings_page(),
        "outputs.md": schemas.build_outputs_page(),
    }
    return {FOLDER / name: f"{HEAD}\n\n{text}\n" for name, text in texts.items()}


@app.command()
@exits_with_expected_errors
def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 when a page would change.")
    ] = False,
) -> None:
    """Write the pages of the reference anew."""
    require_engine(
        load_settings().project_dir,
        "reference",
        "read documentation/reference in the engine's repository",
    )
    console = Console()
    generated = build_pages()
    existing = set((ROOT / FOLDER).glob("*.md"))
    stale = [
        file for file, text in generated.items()
        if ROOT / file not in existing or (ROOT / file).read_text(encoding="utf-8") != text
    ]  # fmt: skip
    orphaned = sorted(existing - {ROOT / file for file in generated})
    if not check:
        for file in stale:
            (ROOT / file).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / file).write_text(generated[file], encoding="utf-8")
    for file in stale:
        console.print(f"{file}: {'out of date' if check else 'written'}")
    for file in orphaned:
        console.print(f"{file.relative_to(ROOT)}: nothing makes it; remove it")
    if orphaned or (check and stale):
        if stale:
            console.print("fix: uv run millrace reference", highlight=False)
        raise typer.Exit(EXIT_FAILED)
