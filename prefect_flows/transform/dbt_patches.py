"""What dbt computes again and again at every node, spared while the pipeline calls it.

Each saving gives dbt the same answer in a shorter way, for the time of an invocation, and leaves
the installed package as it is. That statuses, hooks and the warehouse stay the same is shown by
`tests/prefect_flows/transform/test_conformance.py`; what each is worth, by
`benchmarks/savings.py`. They are written for dbt-core 1.12, which pyproject.toml pins.
"""

from __future__ import annotations

import gc
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbt.adapters.base.impl import BaseAdapter
from dbt.adapters.reference_keys import _ReferenceKey
from dbt_common.events.base_types import BaseEvent, EventLevel
from dbt_common.events.event_manager import EventManager
from jinja2 import environment as jinja_environment
from jinja2 import runtime as jinja_runtime

from prefect_flows.transform.monkeypatch import replaced

# dbt strips quotes when it compares names approximately.
QUOTES = frozenset("\"`'")


@contextmanager
def spared() -> Iterator[None]:
    """All savings, for the time of an invocation."""
    with (
        unheard_events_not_built(),
        relations_found_by_name(),
        contexts_not_copied(),
        parsed_project_not_collected(),
    ):
        yield


@contextmanager
def unheard_events_not_built() -> Iterator[None]:
    """Build an event's message only when somebody hears it.

    dbt fires over twenty debug events a node. Each becomes two protobuf messages, built field by
    field, which the log file at level `info` and our callback then drop.
    """
    build = BaseEvent.__init__
    fire = EventManager.fire_event

    def keep_arguments(self: BaseEvent, *args: Any, **kwargs: Any) -> None:
        if self.level_tag() is EventLevel.DEBUG:
            object.__setattr__(self, "_arguments", (args, kwargs))
        else:
            build(self, *args, **kwargs)

    def built(self: BaseEvent, name: str) -> Any:
        # Called for what the instance does not have: its message, at first, and its fields.
        if name == "pb_msg":
            args, kwargs = object.__getattribute__(self, "_arguments")
            build(self, *args, **kwargs)
            return self.__dict__["pb_msg"]
        return getattr(self.pb_msg, name)

    def fire_heard(
        self: EventManager,
        e: BaseEvent,
        level: EventLevel | None = None,
        node: Any = None,
        force_warn_or_error_handling: bool = False,
    ) -> None:
        unheard = (level or e.level_tag()) is EventLevel.DEBUG
        if not unheard or force_warn_or_error_handling:
            fire(self, e, level, node, force_warn_or_error_handling)

    with (
        replaced(BaseEvent, "__init__", keep_arguments),
        replaced(BaseEvent, "__getattr__", built),
        replaced(EventManager, "fire_event", fire_heard),
    ):
        yield


@contextmanager
def relations_found_by_name() -> Iterator[None]:
    """Look a relation up in the cache by its name.

    dbt compares it with every relation of its schema, at every model: a thousand models make a
    million comparisons. What the name finds is still compared by dbt's own rules.
    """
    get_relation = BaseAdapter.get_relation

    def by_name(
        self: BaseAdapter, database: str | None, schema: str | None, identifier: str | None
    ) -> Any:
        if (
            database is None
            or schema is None
            or identifier is None
            or not QUOTES.isdisjoint(database + schema + identifier)
            or (database, schema) not in self.cache
        ):
            return get_relation(self, database, schema, identifier)
        key = _ReferenceKey(database.lower(), schema.lower(), identifier.lower())
        with self.cache.lock:
            cached = self.cache.relations.get(key)
        if cached is None:
            return None
        found = self._make_match([cached.inner], database, schema, identifier)
        return found[0] if found else None

    with replaced(BaseAdapter, "get_relation", by_name):
        yield


@contextmanager
def contexts_not_copied() -> Iterator[None]:
    """Let templates read dbt's context where it lies.

    dbt's context is a chain over some seven hundred macros, each wrapped when it is looked up.
    Jinja copies it into a dict for every template and for every call of a macro.
    """
    new_context = jinja_runtime.new_context

    def layered(
        environment: Any,
        template_name: str | None,
        blocks: dict[str, Callable[..., Any]],
        vars: Any = None,
        shared: bool = False,
        globals: Any = None,
        locals: Any = None,
    ) -> Any:
        if not isinstance(vars, ChainMap) or shared or locals:
            return new_context(environment, template_name, blocks, vars, shared, globals, locals)
        parent = ChainMap(vars, globals) if globals else vars
        return environment.context_class(
            environment, parent, template_name, blocks, globals=globals
        )

    with replaced(jinja_environment, "new_context", layered):
        yield


@contextmanager
def parsed_project_not_collected() -> Iterator[None]:
    """Keep the garbage collector away from the parsed project, which stays until the end.

    Every full collection walks all of it: half a million objects at a thousand models.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
