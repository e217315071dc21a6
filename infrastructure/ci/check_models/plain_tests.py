"""dbt's own tests `not_null` and `unique`, which need no SQL engine.

Most tests of a project are of these two. They read one column and group by it at most, so they are
right if the column exists and can be grouped by. Analyzing each would take most of the time.
"""

from __future__ import annotations

import re
from typing import Any

from dbt.contracts.graph.manifest import Manifest

from infrastructure.ci.check_models.engine import Columns

TESTS = ("not_null", "unique")
PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")
# Types that every warehouse compares and groups by. With others, the engine decides.
SCALAR = re.compile(
    r"text|character varying|integer|bigint|smallint|numeric|double precision|real|boolean|date|"
    r"timestamp with(?:out)? time zone|uuid|"
    r"STRING|INT64|FLOAT64|NUMERIC|BIGNUMERIC|BOOL|DATE|DATETIME|TIMESTAMP"
)


class PlainTests:
    """Knows which tests are dbt's own.

    Args:
        manifest: the project, which may replace dbt's macros.
    """

    def __init__(self, manifest: Manifest) -> None:
        replaced = {
            macro.name.rpartition("__")[2]
            for macro in manifest.macros.values()
            if macro.package_name not in ("dbt", "dbt_postgres", "dbt_bigquery")
        }
        self._macros = {
            f"macro.dbt.test_{name}": name for name in TESTS if f"test_{name}" not in replaced
        }

    def is_right(self, test: Any, columns: Columns) -> bool:
        """Return whether a test is surely right; False if the engine has to check it.

        Args:
            test: a generic test.
            columns: columns of the relation that it tests.
        """
        config = test.config
        column = columns.get(test.column_name or "")
        return (
            any(macro in self._macros for macro in test.depends_on.macros)
            and set(test.test_metadata.kwargs) == {"column_name", "model"}
            and not config.where
            and config.fail_calc == "count(*)"
            and column is not None
            and PLAIN_NAME.fullmatch(test.column_name) is not None
            and SCALAR.fullmatch(column.type_name) is not None
        )
