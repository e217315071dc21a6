"""What a check finds: errors with their place, and what could not be checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from pydantic import TypeAdapter

Warehouse = Literal["postgres", "bigquery"]
WAREHOUSES: tuple[Warehouse, ...] = ("postgres", "bigquery")

# Rule → what it reports; SARIF lists them.
RULES: Mapping[str, str] = {
    "sql": "The warehouse refuses the SQL.",
    "compile": "dbt cannot compile the node.",
    "contract": "The columns of a model are not those of its contract.",
    "documented-column": "YAML documents a column that the SQL does not return.",
    "source-column": "YAML documents a column that the loader does not load.",
}


@dataclass(frozen=True, order=True)
class Place:
    """A place in a file of the project; lines and columns start at 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, order=True)
class Finding:
    """An error in a file of the project.

    Attributes:
        place: where it is.
        rule: a key of `RULES`.
        message: what is wrong.
        suggestion: what may fix it; empty if nothing is known.
        node: unique id of the dbt node.
        warehouses: the warehouses that it applies to.
    """

    place: Place
    rule: str
    message: str
    suggestion: str
    node: str
    warehouses: tuple[str, ...]


@dataclass(frozen=True, order=True)
class Unchecked:
    """A node that was not checked, and why."""

    node: str
    reason: str
    warehouses: tuple[str, ...]


# Column of a node → the columns that it comes from, each as (unique id of its node, column).
ColumnOrigins = Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        checked: number of checked nodes, by warehouse.
        lineage: unique id of a node → origins of its columns; only BigQuery's analyzer knows them.
    """

    findings: Sequence[Finding] = ()
    unchecked: Sequence[Unchecked] = ()
    checked: Mapping[str, int] = field(default_factory=dict)
    lineage: Mapping[str, ColumnOrigins] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """Return the result as plain data that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> CheckResult:
        """Build a result from `to_document`, also from its JSON.

        Raises:
            KeyError: the document lacks a field.
            ValidationError: a field has another structure.
        """
        found = {each.name: document[each.name] for each in fields(cls)}
        return TypeAdapter(cls).validate_python(found)


def merge_results(results: Iterable[CheckResult]) -> CheckResult:
    """Merge the results of the warehouses.

    Findings that differ only in the warehouse become one. So do those at one place, of which the
    first warehouse's message stays: each warehouse has its own words for the same error.
    """
    findings: dict[tuple[Any, ...], Finding] = {}
    unchecked: dict[tuple[str, str], Unchecked] = {}
    checked: dict[str, int] = {}
    lineage: dict[str, ColumnOrigins] = {}
    for result in results:
        for found in result.findings:
            key = (found.place, found.rule, found.node)
            before = findings.get(key)
            findings[key] = found if before is None else _merge(before, found)
        for each in result.unchecked:
            known = unchecked.get((each.node, each.reason))
            warehouses = each.warehouses if known is None else known.warehouses + each.warehouses
            unchecked[each.node, each.reason] = replace(each, warehouses=warehouses)
        checked |= result.checked
        lineage |= result.lineage
    return CheckResult(sorted(findings.values()), sorted(unchecked.values()), checked, lineage)


def _merge(first: Finding, second: Finding) -> Finding:
    return replace(
        first,
        suggestion=first.suggestion or second.suggestion,
        warehouses=tuple(dict.fromkeys((*first.warehouses, *second.warehouses))),
    )
