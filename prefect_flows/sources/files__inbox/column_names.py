"""Names of columns, from whatever a header says: Latin letters, digits and underscores.

Postgres would take other letters too. A load job of BigQuery replaces them, and then no column
fits; so they are written in Latin letters on every warehouse (`größe` is `grosse`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from text_unidecode import unidecode  # type: ignore[import-untyped]

from prefect_flows.sources.files__inbox.file_errors import Malformed, shortened

FILE, ROW, LOAD_ID = "_file", "_row", "_dlt_load_id"
# Those of the load, and of Postgres in each of its tables.
_OWN = {FILE, ROW, "tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
# dlt's, and those that BigQuery has no columns of.
_OWN_PREFIXES = (
    "_dlt", "_table_", "_file_", "_partition", "_row_timestamp", "__root__", "_colidentifier",
)  # fmt: skip
# Of a table and so of a file: Postgres takes 1,600, and counts those that were dropped.
MOST_COLUMNS = 1_500


def in_latin_letters(name: str) -> str:
    """A name as it would be written without other letters."""
    return str(unidecode(name)).strip()


def refuse_many_columns(columns: int) -> None:
    """Refuse what no table takes.

    Raises:
        Malformed: there are too many columns.
    """
    if columns > MOST_COLUMNS:
        raise Malformed(f"it makes {columns:,} columns, and a table takes {MOST_COLUMNS:,}", 1)


class Names:
    """Column names by the keys of a file's header or objects.

    Args:
        normalize: dlt's naming convention for one identifier.
    """

    def __init__(self, normalize: Callable[[str], str]) -> None:
        self._normalize = normalize
        self.columns: dict[str, str] = {}

    def add(self, keys: Iterable[str]) -> None:
        """Name the keys that are new.

        Raises:
            Malformed: two keys are one column, one has no name, or it is a column of the load's; or
                they are too many.
        """
        keys = [key for key in keys if key not in self.columns]
        refuse_many_columns(len(self.columns) + len(keys))
        for key in keys:
            latin = in_latin_letters(key)
            # dlt's convention raises an error for a text without any character.
            name = self._normalize(latin) if latin else ""
            shown = shortened(repr(key))
            if not name.strip("_"):
                called = f": {shown} has no letter or digit" if key.strip() else ""
                raise Malformed(f"column {len(self.columns) + 1} has no name{called}", 1)
            if name in _OWN or name.startswith(_OWN_PREFIXES):
                raise Malformed(f"column {shown} has a name that the load or a warehouse uses", 1)
            for other, taken in self.columns.items():
                if taken == name:
                    raise Malformed(
                        f"{shortened(repr(other))} and {shortened(repr(key))} are both "
                        f"column {name!r}",
                        1,
                    )
            self.columns[key] = name
