"""`millrace backup create|restore`: back up and restore Prefect's database with its secrets."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from packaging.version import Version
from rich.console import Console

from infrastructure.local.files import make_writable_folder
from infrastructure.operate.backup import archive, postgres, sqlite
from infrastructure.operate.backup.archive import Manifest
from infrastructure.operate.backup.database import Postgres, Sqlite, get_configured_database
from infrastructure.operate.backup.encryption_keys import KeyCheck
from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.errors import BackupError
from prefect_flows.core.settings import load_settings
from prefect_flows.core.temporary_folders import private_folder

app = typer.Typer(
    help="Back up and restore the database of the Prefect server of this environment.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
@exits_with_expected_errors
def create(
    to: Annotated[
        Path | None, typer.Option(help="Folder of the backups; .local/backups by default.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Number of backups to keep; older ones are removed.")
    ] = None,
) -> None:
    """Write one backup, while the server runs. Whoever reads it has every secret of every block."""
    import prefect

    console = Console()
    local_dir = load_settings().local_dir
    folder = to or local_dir / "backups"
    database = get_configured_database(local_dir)
    made_here = not folder.exists()
    make_writable_folder(folder)
    if made_here:
        folder.chmod(0o700)
    with private_folder("backup", folder, ".unfinished-") as scratch:
        copy = scratch / archive.DATABASE
        if isinstance(database, Sqlite):
            sqlite.back_up(database, copy)
            revision, rows, blocks = (
                sqlite.read_revision(copy),
                sqlite.count_rows(copy),
                sqlite.read_blocks(copy),
            )
            server = sqlite.VERSION
        else:
            seen = postgres.dump(database, copy)
            revision, rows, blocks = seen.revision, seen.rows, seen.blocks
            server = seen.server
        manifest = Manifest(
            kind=_kind(database),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            prefect=prefect.__version__,
            revision=revision,
            server=server,
            rows=rows,
            key=blocks.where,
            key_sha256=blocks.sha256,
        )
        file = archive.write(folder, manifest, copy)
    console.print(f"{database.address}: {_format_counts(rows)}", highlight=False, soft_wrap=True)
    console.print(f"{file} ({file.stat().st_size / 1e6:.1f} MB)", highlight=False, soft_wrap=True)
    _print_key_location(console, blocks)
    if keep is not None:
        for old in archive.prune(folder, keep):
            console.print(f"removed {old.name}", highlight=False, soft_wrap=True)


@app.command()
@exits_with_expected_errors
def restore(
    file: Annotated[Path, typer.Argument(help="A backup that `create` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Keep the current database under another name.")
    ] = False,
    without_secrets: Annotated[
        bool, typer.Option("--without-secrets", help="Restore although no key opens the blocks.")
    ] = False,
) -> None:
    """Put a backup in the place of the server's database. The server must not run."""
    import prefect

    console = Console()
    database = get_configured_database(load_settings().local_dir)
    with private_folder("restore") as scratch:
        manifest, copy = archive.read(file, scratch)
        if manifest.kind != _kind(database):
            raise BackupError(
                f"The backup is of {manifest.kind}; the server here has {database.address}.",
                where=str(file),
                fix="set PREFECT_SERVER_DATABASE_CONNECTION_URL to a database of that kind",
            )
        if Version(manifest.prefect) > Version(prefect.__version__):
            raise BackupError(
                f"The backup was made by Prefect {manifest.prefect}, and this is "
                f"{prefect.__version__}, which does not know what a newer one stores.",
                where=str(file),
                fix=f"install prefect=={manifest.prefect} or newer first (or take that image)",
            )
        if not replace and not _is_empty(database):
            raise BackupError(
                "The database is not empty.",
                where=database.address,
                fix=f"uv run millrace backup restore {file} --replace keeps it under another name",
            )
        kept: Path | str | None
        if isinstance(database, Sqlite):
            blocks = sqlite.read_blocks(copy)
            if blocks.undecryptable and not without_secrets:
                raise postgres.build_decryption_error(blocks, str(file))
            kept = sqlite.restore(database, copy, manifest)
        else:
            kept = postgres.restore(database, copy, manifest, without_secrets=without_secrets)
    console.print(
        f"{database.address}: restored as of {manifest.created_at}, "
        f"{_format_counts(manifest.rows)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if kept is not None:
        console.print(f"What was there is kept: {kept}", highlight=False, soft_wrap=True)
    console.print("Start the server; it migrates the database where its version is newer.")


def _kind(database: Sqlite | Postgres) -> archive.Kind:
    return "sqlite" if isinstance(database, Sqlite) else "postgres"


def _is_empty(database: Sqlite | Postgres) -> bool:
    if isinstance(database, Sqlite):
        return sqlite.is_empty(database)
    return postgres.is_empty(database)


def _format_counts(rows: object) -> str:
    assert isinstance(rows, dict)  # noqa: S101 # as the manifest holds them
    names = {"flow_run": "flow runs", "deployment": "deployments", "block_document": "blocks"}
    return ", ".join(f"{rows[table]} {name}" for table, name in names.items())


def _print_key_location(console: Console, blocks: KeyCheck) -> None:
    """Print where the blocks' encryption key is, so that it is kept before it is needed."""
    if blocks.undecryptable:
        text = (
            f"{blocks.undecryptable} of {blocks.blocks} blocks cannot be decrypted: their key is "
            "neither in this backup nor here; keep the server's "
            "PREFECT_SERVER_ENCRYPTION_KEY elsewhere"
        )
    elif blocks.where == "environment":
        text = "The key of the blocks is not in it: keep PREFECT_SERVER_ENCRYPTION_KEY elsewhere"
    else:
        text = "The key of the blocks is in it: keep it where secrets are kept"
    console.print(text, highlight=False, soft_wrap=True)
