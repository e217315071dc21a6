"""Check the project for one warehouse, in a process of its own: dbt's adapters are global.

The process that starts the others imports this module, so it imports neither dbt nor dlt.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infrastructure.ci.check_models.findings import CheckResult, Warehouse
from prefect_flows.core.errors import MillraceError


@dataclass(frozen=True)
class Job:
    """What to check.

    Attributes:
        dbt_dir: the dbt project.
        local_dir: folder for the scratch server and the parsed projects.
        vars: dbt's `--vars`.
    """

    warehouse: Warehouse
    dbt_dir: Path
    local_dir: Path
    vars: Mapping[str, Any]


@dataclass(frozen=True)
class Failure:
    """An expected error in the process; errors of their own do not travel between processes."""

    kind: type[MillraceError]
    what: str
    where: str
    fix: str

    def raise_again(self) -> None:
        """Raise the error here."""
        raise self.kind(self.what, where=self.where, fix=self.fix)


@dataclass(frozen=True)
class Checked:
    """The result of a check.

    Attributes:
        variables: environment variables that the project reads.
        checksums: unique id of a node → dbt's hash of its file.
    """

    result: CheckResult
    variables: tuple[str, ...]
    checksums: Mapping[str, str]


def check_warehouse(job: Job) -> Checked | Failure:
    """Check the project for one warehouse."""
    # Imported objects are never garbage.
    gc.disable()
    from prefect_flows.transform.dbt_imports import import_dbt

    import_dbt()
    from infrastructure.ci.check_models.warehouse_check import check

    gc.enable()
    try:
        return check(job)
    except MillraceError as error:
        return Failure(type(error), error.what, error.where, error.fix)
