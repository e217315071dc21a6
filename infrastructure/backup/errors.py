"""What a backup cannot do."""

from __future__ import annotations

from prefect_flows.errors import MillraceError


class BackupError(MillraceError):
    """A backup cannot be made, or is not fit to be restored; nothing was changed."""
