"""Lets dbt build and read published models in other schemas than those that readers use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect_flows.publish.models import is_view


@contextmanager
def relocated(
    nodes: Mapping[str, Any], schemas: Mapping[str, str], render: Callable[[Any], str]
) -> Iterator[None]:
    """Give nodes of dbt's manifest another schema while the context is open.

    `ref`, `this` and dbt's creation of schemas read the schema of the node, so this works with any
    project, whatever its `generate_schema_name` does. Views become tables. At the end the nodes
    are as before: the manifest that is saved, and dbt's docs, have the names that readers use.

    Args:
        nodes: node id → node.
        schemas: id of a published model → the schema to use.
        render: renders the name of a node's relation, quoted as in SQL.
    """
    before = {}
    for unique_id, schema in schemas.items():
        node = nodes[unique_id]
        before[unique_id] = (node.schema, node.relation_name, node.config.materialized)
        node.schema = schema
        node.relation_name = render(node)
        if is_view(node):
            node.config.materialized = "table"
    try:
        yield
    finally:
        for unique_id, (schema, relation_name, materialized) in before.items():
            node = nodes[unique_id]
            node.schema, node.relation_name = schema, relation_name
            node.config.materialized = materialized
