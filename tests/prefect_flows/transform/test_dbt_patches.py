"""The patches of dbt do what dbt does, where the conformance suite would not see a difference."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.project import REPOSITORY

# Prints, for each class that dbt serializes, the functions that mashumaro has generated for it.
SERIALIZED = """
import json, sys
if sys.argv[1] == "quickly":
    from prefect_flows.transform.dbt_imports import import_dbt
    import_dbt()
import dbt.cli.main
from dbt_common.dataclass_schema import dbtClassMixin

def functions(cls):
    for name, value in sorted(vars(cls).items()):
        function = getattr(value, "__func__", value)
        if name.startswith("__mashumaro") and hasattr(function, "__code__"):
            code = function.__code__
            constants = [each for each in code.co_consts if isinstance(each, str | None)]
            yield name, type(value).__name__, code.co_code.hex(), code.co_names, constants

def subclasses(cls):
    for each in cls.__subclasses__():
        yield each
        yield from subclasses(each)

found = {f"{cls.__module__}.{cls.__qualname__}": cls for cls in subclasses(dbtClassMixin)}
print(json.dumps({name: list(functions(cls)) for name, cls in found.items()}))
"""


def test_classes_get_the_functions_that_mashumaro_generates_for_each() -> None:
    usual, quick = (
        json.loads(
            subprocess.run(
                [sys.executable, "-c", SERIALIZED, how],
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for how in ("usually", "quickly")
    )
    assert len(usual) > 300
    assert usual == quick


def test_the_log_of_a_command_has_the_format_of_prefect() -> None:
    """Imported in the order of a command, unlike in the process of the tests."""
    program = (
        "import logging, prefect_flows.pipeline;"
        "print(*(type(handler).__name__ for handler in logging.root.handlers))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["PrefectConsoleHandler"]
