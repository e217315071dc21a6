"""Whether a node is still the same: a hash of its code and of all that it is built from."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dbt.contracts.graph.manifest import Manifest


class CodeHashes:
    """Hashes of a manifest's nodes: node's id → hash.

    They are made at once, before anything is compiled: compiling adds to a node's macros.

    A hash covers the node's own code, its configuration as written, the name of its relation, its
    contract, the arguments of a generic test, the macros that it calls, and the hashes of its
    parents. Two manifests give a node the same hash when it would be built in the same way from
    the same inputs.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._nodes: dict[str, str] = {}
        self._macros: dict[str, str] = {}
        for unique_id in (*manifest.nodes, *manifest.sources, *manifest.unit_tests):
            self.of(unique_id)

    def of(self, unique_id: str) -> str:
        """Hash of a node; of an id that the manifest does not hold, the hash of nothing."""
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

    def _parents(self, unique_id: str) -> list[str]:
        return list(self._manifest.parent_map.get(unique_id, []))

    def _hash(self, unique_id: str) -> str:
        node = self._found(unique_id)
        if node is None:
            return _digest(None)
        metadata = getattr(node, "test_metadata", None)
        contract = getattr(node, "contract", None)
        return _digest(
            {
                # Of a seed it is the hash of its file; of a generic test it says nothing.
                "checksum": getattr(getattr(node, "checksum", None), "checksum", None)
                or getattr(node, "checksum", None),
                "code": getattr(node, "raw_code", None),
                "arguments": metadata.kwargs if metadata is not None else None,
                "config": getattr(node, "unrendered_config", None),
                "relation": getattr(node, "relation_name", None),
                "contract": getattr(contract, "checksum", None),
                "macros": [self._macro(i) for i in sorted(_macros_of(node))],
                "parents": [self._nodes[i] for i in sorted(self._parents(unique_id))],
            }
        )

    def _found(self, unique_id: str) -> Any:
        m = self._manifest
        for found in (m.nodes, m.sources, m.unit_tests, m.functions, m.exposures, m.semantic_models,
                      m.metrics, m.saved_queries):  # fmt: skip
            if unique_id in found:
                return found[unique_id]
        return None

    def _macro(self, unique_id: str) -> str:
        """Hash of a macro and of those that it calls."""
        if unique_id not in self._macros:
            self._macros[unique_id] = ""  # a macro may call itself
            macro = self._manifest.macros.get(unique_id)
            self._macros[unique_id] = _digest(
                macro
                and {
                    "sql": macro.macro_sql,
                    "macros": [self._macro(i) for i in sorted(_macros_of(macro))],
                }
            )
        return self._macros[unique_id]


def _macros_of(node: Any) -> list[str]:
    return list(getattr(getattr(node, "depends_on", None), "macros", None) or [])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[
        :16
    ]
