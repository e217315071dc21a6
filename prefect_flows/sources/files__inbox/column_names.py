"""Names of columns, from whatever a header says: Latin letters, digits and underscores.

Postgres would take other letters too. A load job of BigQuery replaces them, and then no column
fits; so they are written in Latin letters on every warehouse (`größe` is `grosse`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from text_unidecode import unidecode  # type: ignore[import-untyped]

from prefect_flows.sources.files__inbox.faults import Malformed, shortened

FILE, ROW, LOAD_ID = "_file", "_row", "_dlt_load_id"
_OWN = (FILE, ROW, LOAD_ID, "_dlt_id")


def in_latin_letters(name: str) -> str:
    """A name as it would be written without other letters."""
    return str(unidecode(name)).strip()


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
            Malformed: two keys are one column, one has no name, or it is a column of the load's.
        """
        for key in keys:
            if key in self.columns:
                continue
            name = self._normalize(in_latin_letters(key)) if key.strip() else ""
            if not name:
                raise Malformed(f"column {len(self.columns) + 1} has no name", 1)
            if name in _OWN:
                raise Malformed(f"column {key!r} has a name that the load itself uses", 1)
            for other, taken in self.columns.items():
                if taken == name:
                    raise Malformed(
                        f"{shortened(repr(other))} and {shortened(repr(key))} are both "
                        f"column {name!r}",
                        1,
                    )
            self.columns[key] = name
