"""Check a source's Python code: the dlt source function, the flow and the imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from infrastructure.ci.check_sources.folder import PACKAGE, Fault, Source
from prefect_flows.ingest import source_registry

FLOW_LINES = 60
ENGINE = "millrace"
# A source must not read these itself: parameters and Secret blocks provide the values.
FORBIDDEN_READS = ("os.environ", "os.getenv", "Secret.load")
SECRET_ANNOTATION = re.compile(r"\bTSecret(Str)?Value\b")


def is_malformed_requirement(requirement: str) -> bool:
    """Return whether a line of `dependencies` is not a valid requirement."""
    try:
        Requirement(requirement)
    except InvalidRequirement:
        return True
    return False


def _get_name(decorator: ast.expr) -> str:
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)


def _functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef, list[ast.expr]]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node, node.decorator_list


def find_source_function(source: Source) -> ast.FunctionDef | None:
    """Return the syntax tree of the dlt source that has the folder's name, or None."""
    for function, decorators in _functions(source.parse_python(source.relative_path("source.py"))):
        if function.name == source.name and "dlt.source" in map(_get_name, decorators):
            return function
    return None


def list_secret_parameters(source: Source) -> set[str]:
    """Return the parameters of the source function that are filled from Secret blocks."""
    function = find_source_function(source)
    if function is None:
        return set()
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return {
        each.arg
        for each in arguments
        if each.annotation is not None and SECRET_ANNOTATION.search(ast.unparse(each.annotation))
    }


def find_flows(source: Source) -> list[str]:
    """Return the names of the flows in `flow.py`."""
    return [
        function.name
        for function, decorators in _functions(source.parse_python(source.relative_path("flow.py")))
        if "flow" in map(_get_name, decorators)
    ]


def check_dlt_source(source: Source) -> Iterator[Fault]:
    """Check that there is a dlt source with the folder's name and a schema contract."""
    file = source.relative_path("source.py")
    function = find_source_function(source)
    if function is None:
        yield Fault(
            file,
            f"there is no dlt source {source.name}",
            f'write @dlt.source(name="{source.name}", schema_contract=…) over def {source.name}(…)',
        )
        return
    keywords = {
        each.arg: each.value
        for call in function.decorator_list
        if isinstance(call, ast.Call) and _get_name(call) == "dlt.source"
        for each in call.keywords
    }
    named = keywords.get("name")
    if not isinstance(named, ast.Constant) or named.value != source.name:
        yield Fault(file, "dlt knows the source by another name", f'write name="{source.name}"')
    called = {
        each.arg
        for call in ast.walk(source.parse_python(file))
        if isinstance(call, ast.Call)
        for each in call.keywords
    }
    if "schema_contract" not in called:
        yield Fault(
            file,
            "it has no schema contract",
            'write schema_contract={"columns": "freeze", "data_type": "freeze"}',
        )


def check_flow(source: Source) -> Iterator[Fault]:
    """Check that `flow.py` has one flow and is short."""
    file = source.relative_path("flow.py")
    lines = len(source.read_text(file).splitlines())
    if lines >= FLOW_LINES:
        yield Fault(
            file,
            f"it has {lines} lines, and a source's flow has fewer than {FLOW_LINES}",
            "move what it does to source.py, and what others need too to prefect_flows",
        )
    found = find_flows(source)
    if len(found) != 1:
        yield Fault(file, f"it has {len(found)} flows", "write one function under @flow(name=…)")


def check_imports(source: Source) -> Iterator[Fault]:
    """Check that third-party packages are declared, and that no other source is imported.

    `infrastructure` is not installed where flow runs execute, so it must not be imported either.
    """
    files = [PACKAGE, source.relative_path(PACKAGE)]
    if source.is_in_clone:
        requirements = [each for file in files for each in _read_requirements(source, file)]
    else:
        # A team declares packages where it likes; those of the engine are installed with it.
        requirements = metadata.requires(ENGINE) or []
        for file in files:
            if (source.project / file).is_file():
                requirements += _read_requirements(source, file)
    declared = _get_names(requirements)
    package = f"--package {source.package} " if source.is_in_clone else ""
    reported = set()
    for file in source.modules:
        for module in sorted(set(_list_imports(source.parse_python(file)))):
            top = module.partition(".")[0]
            other = module.removeprefix(f"{source_registry.PACKAGE}.").partition(".")[0]
            if top == "infrastructure":
                yield Fault(
                    file,
                    f"it imports {module}, which is not installed where runs go",
                    "move what both need to prefect_flows",
                )
            elif module.startswith(f"{source_registry.PACKAGE}.") and other != source.name:
                yield Fault(
                    file,
                    f"it imports the source {other}",
                    "move what both need to a module of prefect_flows",
                )
            elif top not in sys.stdlib_module_names | {"prefect_flows"} and top not in reported:
                providers = {canonicalize_name(each) for each in _providers().get(top, [top])}
                if not providers & declared:
                    reported.add(top)
                    yield Fault(
                        file,
                        f"it imports {top}, and no dependency of the source or the project "
                        "brings it",
                        f"uv add {package}{min(providers)}",
                    )


def check_environment(source: Source) -> Iterator[Fault]:
    """Check that the code reads no environment variables and loads no Secret blocks itself."""
    for file in source.modules:
        for node in ast.walk(source.parse_python(file)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in FORBIDDEN_READS:
                yield Fault(
                    file,
                    f"line {node.lineno} reads {ast.unparse(node)}",
                    "make it a parameter of the source function; a secret one is annotated "
                    "dlt.TSecretStrValue",
                )


def _list_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            if node.module == source_registry.PACKAGE:
                yield from (f"{node.module}.{each.name}" for each in node.names)
            else:
                yield node.module


def _read_requirements(source: Source, file: str) -> list[str]:
    project = source.read_toml(file).get("project", {})
    return [
        *project.get("dependencies", []),
        *(each for some in project.get("optional-dependencies", {}).values() for each in some),
    ]


def _get_names(requirements: Iterable[str]) -> set[str]:
    return {
        canonicalize_name(Requirement(each).name)
        for each in requirements
        if not is_malformed_requirement(each)
    }


@cache
def _providers() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())
