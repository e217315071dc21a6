"""`sqlmesh run` of the day after the run before: every daily model is due, as on a schedule."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import time_machine
from sqlmesh.cli.main import cli

days = Path("days_gone")  # in the SQLMesh project
gone = int(days.read_text()) + 1 if days.exists() else 1
days.write_text(str(gone))
sys.argv = ["sqlmesh", "run"]
with time_machine.travel(datetime.now(UTC) + timedelta(days=gone), tick=True):
    cli()
