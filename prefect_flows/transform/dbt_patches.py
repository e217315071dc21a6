"""Performance patches for dbt: work that it repeats at every node, skipped during an invocation.

Each patch computes the same result faster. It is active only during an invocation and does not
change the installed package. `tests/prefect_flows/transform/test_conformance.py` checks that
statuses, hooks and the warehouse stay the same, and `benchmarks/savings.py` measures each patch.
The patches are for dbt-core 1.12, which pyproject.toml pins.
"""

from __future__ import annotations

import gc
import inspect
import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import MISSING
from functools import cached_property
from typing import Any

from dbt.adapters.base.impl import BaseAdapter
from dbt.adapters.reference_keys import _ReferenceKey
from dbt.clients import jinja as dbt_jinja
from dbt.context import providers
from dbt.context.exceptions_jinja import wrapped_exports
from dbt.context.macros import MacroNamespace
from dbt.contracts.graph.nodes import GenericTestNode
from dbt.plugins import manager
from dbt.utils import args_to_dict
from dbt_common import behavior_flags
from dbt_common.clients import jinja as common_jinja
from dbt_common.clients.jinja import MacroFuzzEnvironment
from dbt_common.events.base_types import BaseEvent, EventLevel
from dbt_common.events.event_manager import EventManager
from jinja2 import environment as jinja_environment
from jinja2 import runtime as jinja_runtime
from jinja2.utils import missing
from mashumaro.jsonschema import schema

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
        look_up_names_quickly(),
        reuse_compiled_templates(),
        build_contexts_lazily(),
        read_relations_of_tests(),
        share_empty_table(),
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
def look_up_names_quickly() -> Iterator[None]:
    """Look up names in dbt's chained contexts without exceptions and generators.

    A template looks up each name that it uses in up to ten dictionaries, and a `ChainMap` searches
    them twice. `adapter.dispatch` tries packages without macros first; each time, dbt builds an
    exception, which looks for secrets in the environment, and drops it.
    """
    get_from_package = MacroNamespace.get_from_package

    def resolve_or_missing(self: jinja_runtime.Context, key: str) -> Any:
        value = _find(self.vars, key)
        return _find(self.parent, key) if value is missing else value

    def contains(self: MacroNamespace, key: object) -> bool:
        return _contains(self.maps, key)

    def get_from_known_package(self: MacroNamespace, package_name: str | None, name: str) -> Any:
        if package_name is not None and not any(package_name in names for names in self.maps):
            return None  # `dispatch`, the only caller, takes the exception for this
        return get_from_package(self, package_name, name)

    with (
        patched(jinja_runtime.Context, "resolve_or_missing", resolve_or_missing),
        patched(MacroNamespace, "__contains__", contains),
        patched(MacroNamespace, get_from_package.__name__, get_from_known_package),
    ):
        yield


def _find(names: Any, key: str) -> Any:
    """Return the value of a name, or Jinja's `missing`."""
    if type(names) is not ChainMap:
        # `get` of dbt's namespaces takes an exception for a name that is missing.
        return names[key] if key in names else missing  # noqa: SIM401
    for part in names.maps:
        if (value := _find(part, key)) is not missing:
            return value
    return missing


def _contains(maps: Iterable[Any], key: object) -> bool:
    for names in maps:
        if _contains(names.maps, key) if type(names) is ChainMap else key in names:
            return True
    return False


@contextmanager
def build_contexts_lazily() -> Iterator[None]:
    """Build parts of a node's Jinja context only if its templates use them.

    dbt builds the context of a node once to compile it, once to run it, and for each macro that its
    adapter calls. Half of the time goes into the variables of the project, a wrapper for each
    function of `exceptions`, and the arguments of the invocation.
    """
    generate_merged = providers.ModelConfiguredVar._generate_merged  # noqa: SLF001
    arguments: dict[int, tuple[Any, dict[str, Any]]] = {}

    def merge_on_access(self: providers.ModelConfiguredVar) -> Mapping[str, Any]:
        self._config.load_dependencies()  # `adapter.dispatch` relies on it
        return _Lazy(lambda: generate_merged(self))

    def wrap_on_access(model: Any) -> Mapping[str, Any]:
        return _Lazy(lambda: wrapped_exports(model))  # type: ignore[no-untyped-call]

    def read_arguments_once(args: Any) -> dict[str, Any]:
        if id(args) not in arguments:
            arguments[id(args)] = args, args_to_dict(args)  # type: ignore[no-untyped-call]
        return dict(arguments[id(args)][1])

    with (
        patched(providers.ModelConfiguredVar, generate_merged.__name__, merge_on_access),
        patched(providers, wrapped_exports.__name__, wrap_on_access),
        patched(providers, args_to_dict.__name__, read_arguments_once),
    ):
        yield


class _Lazy(Mapping[str, Any]):
    """A mapping that is built at its first use."""

    def __init__(self, build: Callable[[], Mapping[str, Any]]) -> None:
        self._build = build

    @cached_property
    def _built(self) -> Mapping[str, Any]:
        return self._build()

    def __getitem__(self, key: str) -> Any:
        return self._built[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._built)

    def __len__(self) -> int:
        return len(self._built)


# The argument `model` of a generic test, as dbt writes it.
_TESTED = re.compile(r"{{ get_where_subquery\((ref|source)\('([^'\\]+)'(?:, '([^'\\]+)')?\)\) }}")
_WHERE_MACRO = "get_where_subquery"


@contextmanager
def read_relations_of_tests() -> Iterator[None]:
    """Call `ref` and `source` for the relation of a generic test, without a template.

    dbt compiles and renders `{{ get_where_subquery(ref('model')) }}` for each test. Without the
    config `where`, its macro returns what `ref` returns. A project that overrides the macro keeps
    dbt's way.
    """
    get_rendered = dbt_jinja.get_rendered

    def get_relation(
        string: Any,
        ctx: MutableMapping[str, Any],
        node: Any = None,
        capture_macros: bool = False,
        native: bool = False,
    ) -> Any:
        if (
            not native
            or capture_macros
            or not isinstance(node, GenericTestNode)
            or not isinstance(string, str)
            or not (match := _TESTED.fullmatch(string))
            or node.config.get("where")
            or not _is_own_where_macro(ctx)
        ):
            return get_rendered(string, ctx, node, capture_macros, native)  # type: ignore[arg-type]
        kind, *names = filter(None, match.groups())
        with common_jinja.catch_jinja(node):
            return ctx[kind](*names)

    with patched(dbt_jinja, get_rendered.__name__, get_relation):
        yield


def _is_own_where_macro(context: MutableMapping[str, Any]) -> bool:
    """Return whether the macros that read the config `where` are dbt's."""
    called = context[_WHERE_MACRO], context["adapter"].dispatch(_WHERE_MACRO, "dbt")
    return [macro.macro.unique_id for macro in called] == [
        f"macro.dbt.{_WHERE_MACRO}",
        f"macro.dbt.default__{_WHERE_MACRO}",
    ]


@contextmanager
def share_empty_table() -> Iterator[None]:
    """Build the table without rows and columns once; agate's tables are immutable.

    dbt returns one for each statement that fetches nothing, and agate compiles regular expressions
    for it.
    """
    from dbt_common.clients import agate_helper  # dbt imports agate when needed

    table = agate_helper.empty_table()  # type: ignore[no-untyped-call]
    with patched(agate_helper, "empty_table", lambda: table):
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
def leave_defaults_out_of_schemas() -> Iterator[None]:
    """Leave the default values out of the JSON schemas with which dbt validates its configuration.

    A default is only a comment in a schema. mashumaro defines, decorates and compiles a dataclass
    for each of them.
    """
    with patched(schema, "_default", lambda *_: MISSING):
        yield


@contextmanager
def find_plugins_once() -> Iterator[None]:
    """Look for dbt's plugins once in a process; dbt lists all installed modules at each command."""
    with patched(manager.PluginManager, "get_prefixed_modules", manager._get_dbt_modules):  # noqa: SLF001 # dbt's own cache
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
def collect_garbage_rarely() -> Iterator[None]:
    """Collect garbage less often, and never what exists when the context opens.

    A full collection traverses half a million objects for a project of a thousand models. What dbt
    parses is never freed: exclude it as well with `gc.freeze`.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
