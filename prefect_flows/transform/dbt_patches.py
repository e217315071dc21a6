"""Performance patches for dbt: work that it repeats at every node, skipped during an invocation.

Each patch computes the same result faster. It is active only during an invocation and does not
change the installed package. `tests/prefect_flows/transform/test_conformance.py` checks that
statuses, hooks and the warehouse stay the same, and `benchmarks/savings.py` measures each patch.
The patches are for dbt-core 1.12, which pyproject.toml pins.
"""

from __future__ import annotations

import gc
import inspect
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dbt.adapters.base.impl import BaseAdapter
from dbt.adapters.reference_keys import _ReferenceKey
from dbt_common import behavior_flags
from dbt_common.clients.jinja import MacroFuzzEnvironment
from dbt_common.events.base_types import BaseEvent, EventLevel
from dbt_common.events.event_manager import EventManager
from jinja2 import environment as jinja_environment
from jinja2 import runtime as jinja_runtime

from prefect_flows.transform.monkeypatch import patched

# dbt strips these from names before it compares them.
QUOTES = frozenset("\"`'")

# A longer template is a model's, which is compiled once.
MAX_REUSED_CHARACTERS = 300


@contextmanager
def patched_dbt() -> Iterator[None]:
    """Apply all patches while the context is open."""
    with (
        skip_debug_events(),
        look_up_relations_by_key(),
        share_jinja_contexts(),
        reuse_compiled_templates(),
        freeze_gc(),
    ):
        yield


@contextmanager
def skip_debug_events() -> Iterator[None]:
    """Skip debug events, which neither the log file nor our callback uses.

    dbt fires over twenty debug events per node and builds two protobuf messages for each, field by
    field. With this patch, it builds the message of a debug event only if something reads it.
    """
    build = BaseEvent.__init__
    fire = EventManager.fire_event

    def keep_arguments(self: BaseEvent, *args: Any, **kwargs: Any) -> None:
        if self.level_tag() is EventLevel.DEBUG:
            object.__setattr__(self, "_arguments", (args, kwargs))
        else:
            build(self, *args, **kwargs)

    def build_on_access(self: BaseEvent, name: str) -> Any:
        # Python calls this for attributes that are missing: the message until it is built, and its
        # fields.
        if name == "pb_msg":
            args, kwargs = object.__getattribute__(self, "_arguments")
            build(self, *args, **kwargs)
            return self.__dict__["pb_msg"]
        return getattr(self.pb_msg, name)

    def fire_unless_debug(
        self: EventManager,
        e: BaseEvent,
        level: EventLevel | None = None,
        node: Any = None,
        force_warn_or_error_handling: bool = False,
    ) -> None:
        is_debug = (level or e.level_tag()) is EventLevel.DEBUG
        if not is_debug or force_warn_or_error_handling:
            fire(self, e, level, node, force_warn_or_error_handling)

    with (
        patched(BaseEvent, "__init__", keep_arguments),
        patched(BaseEvent, "__getattr__", build_on_access),
        patched(EventManager, "fire_event", fire_unless_debug),
    ):
        yield


@contextmanager
def look_up_relations_by_key() -> Iterator[None]:
    """Look up a relation in dbt's cache by its key instead of comparing all relations.

    At every model, dbt compares the relation with every relation of its schema: a million
    comparisons for a thousand models. dbt's own rules still decide whether the found one matches.
    """
    get_relation = BaseAdapter.get_relation

    def get_by_key(
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

    with patched(BaseAdapter, "get_relation", get_by_key):
        yield


@contextmanager
def share_jinja_contexts() -> Iterator[None]:
    """Let Jinja use dbt's context without copying it.

    dbt's context is a `ChainMap` of about seven hundred macros, each wrapped at its lookup. Jinja
    copies it into a dict for every template and every macro call.
    """
    new_context = jinja_runtime.new_context

    def new_context_without_copy(
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

    with patched(jinja_environment, "new_context", new_context_without_copy):
        yield


@contextmanager
def find_callers_quickly() -> Iterator[None]:
    """Find the module that defines a behavior flag of an adapter without reading source files.

    dbt asks for the whole stack with `inspect`, which reads the file of each frame: a tenth of a
    second for the flags of an adapter, below the frames of Prefect and of a command line.
    """

    def default_source() -> str:
        frame = inspect.currentframe()
        own = {__name__, behavior_flags.__name__}
        while frame is not None and frame.f_globals.get("__name__") in own:
            frame = frame.f_back
        return "Unknown" if frame is None else str(frame.f_globals.get("__name__"))

    with patched(
        behavior_flags.BehaviorFlagRendered, "_default_source", staticmethod(default_source)
    ):
        yield


@contextmanager
def reuse_compiled_templates() -> Iterator[None]:
    """Compile equal templates once.

    All tests of a kind have the same text, for example `{{ test_unique(**kwargs) }}`, and so have
    their arguments that name the same relation. dbt compiles them for each test.
    """
    compile_template = jinja_environment.Environment.compile
    compiled: dict[tuple[type, str], Any] = {}

    def compile_once(self: jinja_environment.Environment, source: Any, *args: Any) -> Any:
        if args or not isinstance(source, str) or len(source) > MAX_REUSED_CHARACTERS:
            return compile_template(self, source, *args)
        # dbt makes an environment for each template; those of a class are alike.
        key = type(self), source
        if key not in compiled:
            compiled[key] = compile_template(self, source)
        return compiled[key]

    with patched(MacroFuzzEnvironment, "compile", compile_once):
        yield


@contextmanager
def freeze_gc() -> Iterator[None]:
    """Exclude the parsed project, which is never freed, from garbage collection.

    Every full collection would traverse half a million objects for a thousand models.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
