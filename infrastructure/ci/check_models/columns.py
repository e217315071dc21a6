"""Compare the columns that YAML documents, or a contract declares, with those of the SQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from infrastructure.ci.check_models.engine import Columns, Engine, SqlFault
from infrastructure.ci.check_models.findings import Place
from infrastructure.ci.check_models.places import Places

# Rule, place, message, suggestion.
ColumnFault = tuple[str, Place, str, str]


class ColumnCheck:
    """Compares columns on an engine.

    Args:
        engine: knows types.
        places: places in the files.
        translate: dbt's translation of the types that contracts declare.
    """

    def __init__(self, engine: Engine, places: Places, translate: Callable[[str], str]) -> None:
        self._engine = engine
        self._places = places
        self._translate = translate

    def translate(self, data_type: str | None) -> str:
        """Return a declared type as the warehouse's DDL writes it."""
        return self._translate(data_type or "")

    def check(
        self, node: Any, columns: Columns, tests: Mapping[str, Sequence[str]]
    ) -> Iterator[ColumnFault]:
        """Yield the faults of a node's columns.

        Args:
            node: the node.
            columns: the columns that its SQL returns.
            tests: lower-case name of a missing column → names of its tests.
        """
        is_enforced = str(node.resource_type) == "model" and node.contract.enforced
        for name in find_missing_columns(node, columns):
            what = "contract" if is_enforced else "documented-column"
            says = "the contract has" if is_enforced else "YAML documents"
            cannot = ", ".join(tests.get(name.lower(), ()))
            yield (
                what,
                self._places.of_column(node, name),
                f"{says} the column {name}, which the SQL of {node.name} does not return"
                + (f"; its tests cannot run: {cannot}" if cannot else ""),
                self.suggest(name, columns),
            )
        if is_enforced:
            yield from self._check_contract(node, columns)

    def _check_contract(self, node: Any, columns: Columns) -> Iterator[ColumnFault]:
        declared = {_normalize(column.name): column for column in node.columns.values()}
        for name, found in columns.items():
            column = declared.get(_normalize(name))
            if column is None:
                yield (
                    "contract",
                    self._places.of_column(node, None),
                    f"the SQL of {node.name} returns the column {name} ({found.type_name}), "
                    "which the contract lacks",
                    f"add it under columns: {{name: {name}, data_type: {found.type_name.lower()}}}",
                )
                continue
            if column.data_type is None:
                continue
            place = self._places.of_column(node, column.name, column.data_type)
            try:
                expected = self._engine.resolve_type(self.translate(column.data_type))
            except SqlFault as fault:
                yield (
                    "contract", place,
                    f"{column.data_type} is no type of {self._engine.warehouse}: {fault.message}",
                    f"the SQL returns {found.type_name}",
                )  # fmt: skip
                continue
            if expected.comparable != found.comparable:
                yield (
                    "contract", place,
                    f"the contract says that {name} is {expected.type_name}, and the SQL of "
                    f"{node.name} returns {found.type_name}",
                    f"cast it: cast({name} as {expected.type_name}), or correct data_type",
                )  # fmt: skip

    @staticmethod
    def suggest(name: str, known: Iterable[str]) -> str:
        """Return "did you mean …?" with the most similar name; empty if none is similar."""
        similar = get_close_matches(name, list(known), n=1)
        return f"did you mean {similar[0]}?" if similar else ""


def find_missing_columns(node: Any, columns: Collection[str]) -> list[str]:
    """Return the columns that YAML documents and that a relation lacks."""
    known = {_normalize(name) for name in columns}
    return [column.name for column in node.columns.values() if _normalize(column.name) not in known]


def _normalize(name: str) -> str:
    return name.strip('"`').lower()
