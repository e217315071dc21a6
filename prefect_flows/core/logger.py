"""The type of a logger that stages write to: Prefect's or Python's."""

from __future__ import annotations

import logging
from typing import Any

Logger = logging.Logger | logging.LoggerAdapter[Any]
