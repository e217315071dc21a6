"""Runs only those batches of a microbatch model that failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dbt.artifacts.schemas.batch_results import BatchResults
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import ModelNode


@contextmanager
def only_failed_batches(manifest: Manifest, batches: Mapping[str, BatchResults]) -> Iterator[None]:
    """Let models run the batches that failed, for the time of an invocation, as dbt's retry does.

    The first batch of an invocation would replace the table where `full_refresh` is asked for, and
    with it the batches that succeeded; so it is off for these models.

    Args:
        batches: node's id → the batches that its last attempt ran, of which some succeeded.
    """
    models = [node for i in batches if isinstance(node := manifest.nodes[i], ModelNode)]
    before = {node.unique_id: node.config.full_refresh for node in models}
    try:
        for node in models:
            node.previous_batch_results = batches[node.unique_id]
            node.config.full_refresh = False
        yield
    finally:
        for node in models:
            node.previous_batch_results = None
            node.config.full_refresh = before[node.unique_id]
