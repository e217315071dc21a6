"""The error with which dbt ends a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbt.task.base import BaseRunner

from prefect_flows.transform.replaced import replaced

# Is told a node's id and the error that ended it.
OnError = Callable[[str, Exception], None]


@contextmanager
def errors_seen(on_error: OnError) -> Iterator[None]:
    """Tell the error of each node that dbt ends with one.

    dbt's results keep only the error's text. Its runners hand every error of a node to one
    method, `handle_exception`, which is wrapped here for the time of an invocation.
    """
    handle = BaseRunner.handle_exception

    def telling(self: BaseRunner[Any, Any], e: Exception, ctx: Any) -> str:
        on_error(self.node.unique_id, e)
        return str(handle(self, e, ctx))

    with replaced(BaseRunner, handle.__name__, telling):
        yield
