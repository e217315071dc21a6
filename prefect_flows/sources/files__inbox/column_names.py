"""Turns headers and keys into column names: Latin letters, digits and underscores.

Postgres would accept other letters. A BigQuery load job replaces them, and then columns no longer
match. Therefore names are transliterated for every warehouse (`größe` becomes `grosse`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from text_unidecode import unidecode  # type: ignore[import-untyped]

from prefect_flows.core.formatting import shorten_middle
from prefect_flows.sources.files__inbox.file_errors import MalformedFile

FILE, ROW, LOAD_ID = "_file", "_row", "_dlt_load_id"
# Columns of the load, and system columns of Postgres.
_RESERVED_NAMES = {FILE, ROW, "tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
# Prefixes of dlt, and those that BigQuery reserves.
_RESERVED_PREFIXES = (
    "_dlt", "_table_", "_file_", "_partition", "_row_timestamp", "__root__", "_colidentifier",
)  # fmt: skip
# Postgres allows 1,600 in a table, including dropped ones.
MAX_COLUMNS = 1_500


def transliterate(name: str) -> str:
    """Transliterate a name to Latin letters."""
    return str(unidecode(name)).strip()


def refuse_many_columns(columns: int) -> None:
    """Refuse more columns than a table can have.

    Raises:
        MalformedFile: there are too many columns.
    """
    if columns > MAX_COLUMNS:
        raise MalformedFile(f"it makes {columns:,} columns, and a table takes {MAX_COLUMNS:,}", 1)


class Names:
    """Maps the keys of a file's header or objects to column names.

    Args:
        normalize: dlt's naming convention for one identifier.
    """

    def __init__(self, normalize: Callable[[str], str]) -> None:
        self._normalize = normalize
        self.columns: dict[str, str] = {}

    def add(self, keys: Iterable[str]) -> None:
        """Add names for new keys.

        Raises:
            MalformedFile: two keys have the same column name, a key has no name or a reserved one,
                or there are too many keys.
        """
        keys = [key for key in keys if key not in self.columns]
        refuse_many_columns(len(self.columns) + len(keys))
        for key in keys:
            latin = transliterate(key)
            # dlt's naming convention raises an error for an empty text.
            name = self._normalize(latin) if latin else ""
            shown = shorten_middle(repr(key))
            if not name.strip("_"):
                description = f": {shown} has no letter or digit" if key.strip() else ""
                raise MalformedFile(f"column {len(self.columns) + 1} has no name{description}", 1)
            if name in _RESERVED_NAMES or name.startswith(_RESERVED_PREFIXES):
                raise MalformedFile(
                    f"column {shown} has a name that the load or a warehouse uses", 1
                )
            for other, existing in self.columns.items():
                if existing == name:
                    raise MalformedFile(
                        f"{shorten_middle(repr(other))} and {shorten_middle(repr(key))} are both "
                        f"column {name!r}",
                        1,
                    )
            self.columns[key] = name
