"""Finds the configuration of work pools and automations: the project's own, or the engine's."""

from __future__ import annotations

from pathlib import Path

from prefect_flows.core.settings import Settings

# Those of a clone are the project's own.
ENGINE_CONFIG_DIR = Path(__file__).parents[1] / "config"


def find_config_file(settings: Settings, name: str) -> Path:
    """Return the project's file of this name in `config_dir`, or else the engine's."""
    own = settings.config_dir / name
    return own if own.is_file() else ENGINE_CONFIG_DIR / name
