"""Check the project for one warehouse, in a process of its own: dbt's adapters are global.

The process that starts the others imports this module, so it imports neither dbt nor dlt.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

from infrastructure.ci.check_models.jobs import Checked, Job
from prefect_flows.core.errors import MillraceError


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
