"""What the check of a warehouse gets and returns; both travel between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infrastructure.ci.check_models.findings import CheckResult, Warehouse


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
class Checked:
    """The result of a check.

    Attributes:
        variables: environment variables that the project reads.
        checksums: unique id of a node → dbt's hash of its file.
    """

    result: CheckResult
    variables: tuple[str, ...]
    checksums: Mapping[str, str]
