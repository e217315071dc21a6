"""The sources, a folder `<owner>__<name>` each; their names are known without importing them."""

from __future__ import annotations

from pathlib import Path

from prefect_flows.errors import ConfigurationError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of all sources, sorted: every folder with a `source.py`."""
    return sorted(file.parent.name for file in FOLDER.glob("*/source.py"))


def require(name: str) -> None:
    """Refuse a name that is no source's.

    Raises:
        ConfigurationError: there is no such source.
    """
    if name not in names():
        raise ConfigurationError(
            f"Source {name!r} does not exist; there are: {', '.join(names())}.",
            where=str(FOLDER),
            mend=f"name one of them, or add the folder {name} with a source.py",
        )
