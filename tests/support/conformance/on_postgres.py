"""A database for each door, on the quickstart's server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from psycopg2.extras import execute_values

from tests.support.conformance.project import Side
from tests.support.conformance.truth import Relation, compared_columns
from tests.support.project import Project

DATABASES: dict[Side, str] = {"dbt": "conformance_dbt", "pipeline": "conformance_pipeline"}
# Schemas are the same in both databases.
SCHEMA, RAW = "conformance", "conformance_raw"
NAMES = {"raw": RAW, "text": "text", "datetime": "timestamp", "instant": "timestamptz"}

# Every relation with its columns, and its indexes without their names, which dbt makes of the time.
CATALOG = """
select
    c.oid::regclass::text,
    case c.relkind when 'r' then 'table' when 'v' then 'view' else c.relkind::text end,
    (
        select json_agg(
            json_build_array(
                a.attname,
                format_type(a.atttypid, a.atttypmod)
                || case when a.attnotnull then ' not null' else '' end
            )
            order by a.attnum
        )
        from pg_attribute as a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    ),
    array(
        select regexp_replace(pg_get_indexdef(i.indexrelid), 'INDEX .* ON', 'INDEX ON')
        from pg_index as i
        where i.indrelid = c.oid
        order by 1
    ),
    case when c.relkind = 'v' then pg_get_viewdef(c.oid) end
from pg_class as c
inner join pg_namespace as n on c.relnamespace = n.oid
where c.relkind not in ('i', 'S', 't', 'c') and n.nspname !~ '^(pg_|information_schema)'
"""


class OnPostgres:
    """Two databases on the server of a project that the quickstart has made ready."""

    environment: Mapping[str, str] = {}

    def __init__(self, project: Project) -> None:
        self.project = project
        for database in DATABASES.values():
            project.query(f"drop database if exists {database} with (force)")
            project.query(f"create database {database}")

    def target(self, side: Side) -> dict[str, Any]:
        return self.project.dev | {"database": DATABASES[side], "schema": SCHEMA}

    def in_profile(self, side: Side) -> dict[str, str]:
        return {"dbname": DATABASES[side]}

    def clear(self, side: Side) -> None:
        found = self.project.query(
            "select nspname from pg_namespace where nspname !~ '^(pg_|information_schema)'",
            DATABASES[side],
        )
        for (schema,) in found:
            self.project.query(f"drop schema {schema} cascade", DATABASES[side])
        self.project.query(f"create schema {RAW}", DATABASES[side])

    def execute(self, side: Side, statements: str) -> None:
        self.project.query(statements.format(**NAMES), DATABASES[side])

    def insert(self, side: Side, table: str, rows: list[tuple[Any, ...]]) -> None:
        with closing(self.project.connect(DATABASES[side])) as connection:
            execute_values(connection.cursor(), f"insert into {RAW}.{table} values %s", rows)

    def relations(self, side: Side) -> dict[str, Relation]:
        with closing(self.project.connect(DATABASES[side])) as connection:
            cursor = connection.cursor()
            cursor.execute(CATALOG)
            return {name: _relation(cursor, name, *rest) for name, *rest in cursor.fetchall()}


def _relation(
    cursor: Any,
    name: str,
    kind: str,
    columns: list[list[str]],
    indexes: list[str],
    definition: str | None,
) -> Relation:
    shown = compared_columns(name, [column for column, _ in columns], '"')
    cursor.execute(f"select {shown} from {name}")
    return Relation(
        kind,
        tuple((column, kind_of) for column, kind_of in columns),
        Counter(cursor.fetchall()),
        tuple(indexes),
        definition,
    )
