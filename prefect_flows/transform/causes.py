"""The cause of each node that dbt ends with an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dbt.task.base import BaseRunner

from prefect_flows.causes import Cause, cause_of
from prefect_flows.transform.replaced import replaced


@contextmanager
def recorded_causes(causes: dict[str, Cause]) -> Iterator[None]:
    """Record the cause of each node that dbt ends with an error: node's id → cause.

    dbt's results keep only the error's text. Its runners hand every error of a node to one
    method, `handle_exception`, which is wrapped here for the time of an invocation.
    """
    handle = BaseRunner.handle_exception

    def recording(self: BaseRunner[Any, Any], e: Exception, ctx: Any) -> str:
        causes[self.node.unique_id] = cause_of(e)
        return str(handle(self, e, ctx))

    with replaced(BaseRunner, handle.__name__, recording):
        yield
