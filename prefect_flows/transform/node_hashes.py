"""Hashes of dbt nodes for `--changed` and resume: a stricter replacement for `state:modified`."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from dbt.adapters.factory import get_adapter_package_names
from dbt.config.runtime import RuntimeConfig
from dbt.context.providers import RuntimeVar
from dbt.contracts.graph.manifest import Manifest

# `target`, and `var` and `env_var`, whose names may only be known at run time.
_READ_PATTERN = re.compile(r"\b(env_var|var|target)\b(?:\s*\(\s*(['\"])([^'\"]*)\2\s*[,)])?")
# A macro of the project that calls others by a name that is only known at run time.
_BY_NAME_PATTERN = re.compile(r"\bcontext\s*(\[|\.get\b)")
# Keys of a column that reach the warehouse only with `persist_docs`.
_DESCRIPTION_KEYS = frozenset({"description", "doc_blocks"})
# Keys of `target` on which no result depends; the name of the connections differs in each run.
_NO_VALUES_OF_TARGET = frozenset({"threads", "application_name"})
# Stands for every name, if the name is only known at run time.
_ANY = ""

# What code reads: function and name, for example `("var", "threshold")`.
Read = tuple[str, str]


class CodeHashes:
    """Node id → hash, for all nodes of a manifest.

    The constructor computes all hashes, before anything is compiled: compiling adds to the macros
    of a node.

    A hash covers everything that the result of a node depends on: its code, its configuration, the
    contents of a seed, its relation and the server that holds it, its columns and constraints, the
    arguments of a generic test, the macros that it calls and those that materialize it, the values
    of the variables and environment variables that these read, and the hashes of its parents. It
    does not cover the rows of sources, nor values that differ in each run (`run_started_at`,
    `invocation_id`).

    Args:
        manifest: the parsed project; parsed with `--maximum-seed-size-mib 0`, or else the hash of
            a seed of more than 1 MiB covers only its path.
        config: dbt's runtime configuration, from dbt_project.yml, packages, `--vars` and profile.
        ignored_variables: names of variables that no hash covers.

    Attributes:
        variables: node id → hash of the variables alone that the node reads.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: RuntimeConfig,
        ignored_variables: Collection[str] = (),
    ) -> None:
        self.variables: dict[str, str] = {}
        self._manifest = manifest
        self._config = config
        self._ignored_variables = ignored_variables
        self._nodes: dict[str, str] = {}
        self._own: dict[str, str] = {}
        self._macros: dict[frozenset[str], tuple[str, frozenset[Read]]] = {}
        self._materialization_ids: dict[str, list[str]] = {}
        credentials: Any = config.credentials
        # If a target moves to another server, everything has to be built again.
        server = [credentials.type, credentials.unique_field, getattr(credentials, "port", None)]
        self._server = [*server, credentials.database]
        for unique_id in chain.from_iterable(self._resources()):
            self.get(unique_id)

    def get(self, unique_id: str) -> str:
        """Return the hash of a node; a constant for an id that is not in the manifest."""
        waiting = [unique_id]
        while waiting:
            node = waiting[-1]
            missing = [p for p in self._parents(node) if p not in self._nodes]
            if missing and node not in self._nodes:
                waiting += missing
                continue
            waiting.pop()
            if node not in self._nodes:
                self._nodes[node] = self._hash(node)
        return self._nodes[unique_id]

    def get_own(self, unique_id: str) -> str:
        """Return the hash of a node without that of its parents."""
        self.get(unique_id)
        return self._own[unique_id]

    def macro_texts(self, node: Any, packages: Collection[str]) -> list[str]:
        """Return the code of all macros of the given packages that a node calls.

        Macros that these macros call are included, and those that materialize the node are not.
        """
        found = self._find_macros(_macro_ids(node))
        return [macro.macro_sql for macro in found if macro.package_name in packages]

    def all(self) -> Mapping[str, str]:
        """Return node id → hash."""
        return self._nodes

    def _parents(self, unique_id: str) -> list[str]:
        return list(self._manifest.parent_map.get(unique_id, []))

    def _hash(self, unique_id: str) -> str:
        node = self._find(unique_id)
        if node is None:
            self._own[unique_id] = _digest(None)
            return self._own[unique_id]
        metadata = getattr(node, "test_metadata", None)
        config = getattr(node, "config", None)
        code = {
            "code": getattr(node, "raw_code", None),
            "arguments": metadata.kwargs if metadata is not None else None,
            # Rendered, but for hooks, which dbt renders when it runs them.
            "config": config.to_dict(omit_none=True) if config is not None else None,
            # Sources only.
            "loaded_at": [getattr(node, f"loaded_at_{of}", None) for of in ("field", "query")],
            "freshness": getattr(node, "freshness", None),
            "external": getattr(node, "external", None),
            # Functions only.
            "takes": getattr(node, "arguments", None),
            "returns": getattr(node, "returns", None),
            "overloads": getattr(node, "overloads", None),
        }
        macros, read_by_macros = self._hash_macros(
            frozenset(_macro_ids(node) + self._materialization_macros(node))
        )
        checksum = getattr(node, "checksum", None)
        values = self._read_values(node, _find_reads(code) | read_by_macros)
        self.variables[unique_id] = _digest([each for each in values if each[0][0] == "var"])
        own = self._own[unique_id] = _digest(
            code
            | {
                "checksum": getattr(checksum, "checksum", checksum),
                "relation": getattr(node, "relation_name", None),
                "server": self._server,
                "columns": _columns(node),
                "constraints": getattr(node, "constraints", None),
                "macros": macros,
                "values": values,
            }
        )
        return _digest([own, *(self._nodes[i] for i in sorted(self._parents(unique_id)))])

    def _resources(self) -> list[Mapping[str, Any]]:
        m = self._manifest
        return [m.nodes, m.sources, m.unit_tests, m.functions, m.exposures, m.semantic_models,
                m.metrics, m.saved_queries]  # fmt: skip

    def _find(self, unique_id: str) -> Any:
        return next((nodes[unique_id] for nodes in self._resources() if unique_id in nodes), None)

    def _read_values(self, node: Any, reads: Iterable[Read]) -> list[tuple[Read, Any]]:
        """Return the values of what a node reads, also of what the text of a variable reads."""
        waiting = set(reads)
        known: dict[Read, Any] = {}
        variables: Mapping[str, Any] | None = None
        while waiting:
            read = waiting.pop()
            function, name = read
            if function == "target":
                target = self._config.to_target_dict()
                known[read] = {k: v for k, v in target.items() if k not in _NO_VALUES_OF_TARGET}
            elif function == "env_var":
                names = [*self._manifest.env_vars] if name == _ANY else [name]
                known[read] = {each: os.environ.get(each) for each in names}
            else:
                if variables is None:
                    variables = self._variables(node)
                known[read] = {k: v for k, v in variables.items() if name in (_ANY, k)}
                waiting |= _find_reads(known[read]) - known.keys()
        return sorted(known.items())

    def _variables(self, node: Any) -> Mapping[str, Any]:
        """Return dbt's variables for a node, merged from its package, the project and `--vars`."""
        # `RuntimeVar` uses its context only to render values, so None does.
        merged = RuntimeVar(None, self._config, node)._merged  # type: ignore[arg-type] # noqa: SLF001 # dbt has no public method
        return {k: v for k, v in merged.items() if k not in self._ignored_variables}

    def _materialization_macros(self, node: Any) -> list[str]:
        """Return the ids of the macros that materialize a node; they are not in `depends_on`."""
        config = getattr(node, "config", None)
        materialized = getattr(config, "materialized", None)
        if str(getattr(node, "resource_type", "")) == "unit_test":
            materialized = "unit"
        if materialized is None:
            return []
        strategy_macro = ""
        if materialized == "incremental":
            strategy = getattr(config, "incremental_strategy", None) or "default"
            strategy_macro = f"get_incremental_{strategy.replace('+', '_')}_sql"
        elif materialized == "snapshot":
            strategy_macro = f"snapshot_{getattr(config, 'strategy', None)}_strategy"
        key = f"{materialized} {strategy_macro}"
        if key not in self._materialization_ids:
            project, manifest = self._config.project_name, self._manifest
            kind = self._config.credentials.type
            macros = [
                manifest.find_materialization_macro_by_name(project, materialized, kind),
                manifest.find_macro_by_name(strategy_macro, project, None),
            ]
            self._materialization_ids[key] = [
                macro.unique_id for macro in macros if macro is not None
            ]
        return self._materialization_ids[key]

    def _hash_macros(self, macros: frozenset[str]) -> tuple[str, frozenset[Read]]:
        """Return a hash of macros with all macros that they call, and what these read."""
        if macros not in self._macros:
            found = {macro.unique_id: macro.macro_sql for macro in self._find_macros(macros)}
            self._macros[macros] = _digest(found), _find_reads(found)
        return self._macros[macros]

    def _find_macros(self, unique_ids: Iterable[str]) -> list[Any]:
        """Return macros with all macros that they call."""
        found: dict[str, Any] = {}
        waiting = list(unique_ids)
        internal = get_adapter_package_names(self._config.credentials.type)
        while waiting:
            unique_id = waiting.pop()
            macro = self._manifest.macros.get(unique_id)
            if macro is not None and unique_id not in found:
                found[unique_id] = macro
                # A macro of the project may override one of dbt.
                own = f"macro.{self._config.project_name}.{macro.name}"
                waiting += [*_macro_ids(macro), own]
                by_name = macro.package_name not in internal and _BY_NAME_PATTERN.search(
                    macro.macro_sql
                )
                waiting += self._manifest.macros if by_name else []
        return list(found.values())


def find_changed_nodes(
    before: Mapping[str, str], selected: Mapping[str, list[str]], code: CodeHashes
) -> dict[str, list[str]]:
    """Return the selected nodes whose hash has changed, by resource type, for `--changed`.

    A hash covers the hashes of parents, so nodes downstream of a changed node have changed as well.

    Args:
        before: node id → its previous hash.
        selected: resource type → ids of the selected nodes.
        code: the current hashes.
    """
    changed = {
        kind: [i for i in unique_ids if code.get(i) != before.get(i)]
        for kind, unique_ids in selected.items()
    }
    return {kind: unique_ids for kind, unique_ids in changed.items() if unique_ids}


def _macro_ids(node: Any) -> list[str]:
    return list(getattr(getattr(node, "depends_on", None), "macros", None) or [])


def _columns(node: Any) -> list[dict[str, Any]]:
    """Return what affects the columns of a relation; nothing for a source."""
    if str(getattr(node, "resource_type", "")) == "source":
        return []
    persist = getattr(getattr(node, "config", None), "persist_docs", None) or {}
    ignored_keys = frozenset() if persist.get("columns") else _DESCRIPTION_KEYS
    described = [{"name": None, "description": node.description}] if persist.get("relation") else []
    columns = [
        {key: value for key, value in column.to_dict().items() if value and key not in ignored_keys}
        for column in (getattr(node, "columns", None) or {}).values()
    ]
    return described + [column for column in columns if column.keys() != {"name"}]


def _find_reads(content: Any) -> frozenset[Read]:
    """Return what the code in a text reads, or in all texts of a nested list or mapping."""
    return frozenset(
        (function, _ANY if function == "target" else name or _ANY)
        for text in _iter_texts(content)
        for function, _, name in _READ_PATTERN.findall(text)
    )


def _iter_texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for each in content.values():
            yield from _iter_texts(each)
    elif isinstance(content, list | tuple):
        for each in content:
            yield from _iter_texts(each)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[
        :16
    ]
