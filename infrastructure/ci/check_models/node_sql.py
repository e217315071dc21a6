"""The SQL that is checked for a node, and names in messages about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from infrastructure.ci.check_models.snapshots import wrap_snapshot

# The name of a column that is not there, in the words of Postgres and of the analyzer.
MISSPELT = re.compile(
    r"^column (?:\w+\.)?\"?(\w+)\"? does not exist|^Unrecognized name: (?:\w+\.)?(\w+)|"
    r"^Name (\w+) not found inside"
)
QUERY = re.compile(
    r"\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*\(*\s*(?:select|with|values)\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class WrappedSql:
    """SQL around the SQL of a node."""

    before: str
    sql: str
    after: str

    @property
    def text(self) -> str:
        """The SQL that the engine checks."""
        return self.before + self.sql + self.after

    def to_node(self, offset: int | None) -> int | None:
        """Return an offset in the node's SQL."""
        if offset is None or not 0 <= offset - len(self.before) <= len(self.sql):
            return None
        return offset - len(self.before)


def wrap_node(node: Any, sql: str, warehouse: str) -> WrappedSql | None:
    """Return the SQL to check for a node; None for an analysis that is not one query."""
    match str(node.resource_type):
        case "test":
            # As dbt counts the failures.
            before = f"select {node.config.fail_calc} as failures from (\n"  # noqa: S608 (only analyzed)
            return WrappedSql(before, sql, "\n) dbt_internal_test")
        case "analysis":
            query = sql.rstrip().rstrip(";")
            return WrappedSql("", query, "") if QUERY.match(sql) and ";" not in query else None
        case "snapshot":
            before, after = wrap_snapshot(node, warehouse)
            return WrappedSql(before, sql, after)
    return WrappedSql("", sql, "")


def get_misspelt_column(message: str) -> str:
    """Return the name of the column that a message says is not there; empty if it says none."""
    found = MISSPELT.search(message)
    return "" if found is None else next(filter(None, found.groups()))


def find_name(message: str, sql: str) -> int | None:
    """Return where the SQL has the last name that a message without a position quotes."""
    for name in reversed(re.findall(r'"([^"]+)"', message)):
        found = [match.start() for match in re.finditer(rf"\b{re.escape(name)}\b", sql)]
        if found:
            return found[-1]
    return None
