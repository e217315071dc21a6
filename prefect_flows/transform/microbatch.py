"""Microbatch models: which models they are, and retries that run only the batches that failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dbt.artifacts.schemas.batch_results import BatchResults
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import ModelNode


def is_microbatch(node: Any) -> bool:
    """Return whether dbt builds a node in batches of time."""
    config = getattr(node, "config", None)
    return bool(getattr(config, "incremental_strategy", None) == "microbatch")


def find_microbatch_models(manifest: Manifest) -> set[str]:
    """Return the ids of the microbatch models."""
    return {i for i, node in manifest.nodes.items() if is_microbatch(node)}


@contextmanager
def run_failed_batches_only(
    manifest: Manifest, batches: Mapping[str, BatchResults]
) -> Iterator[None]:
    """Let models run only their failed batches while the context is open, like `dbt retry`.

    `full_refresh` is off for these models: the first batch of an invocation would replace the table
    and lose the batches that succeeded.

    Args:
        manifest: the parsed project.
        batches: node id → batches of its last attempt, of which only some succeeded.
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
