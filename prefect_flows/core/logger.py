"""The type of the logger that stages write to: a Prefect run logger or a standard logger."""

from __future__ import annotations

import logging
from typing import Any

Logger = logging.Logger | logging.LoggerAdapter[Any]
