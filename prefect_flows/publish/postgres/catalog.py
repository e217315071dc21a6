"""Which table readers see for each published model, and what Postgres' catalog says of it.

Readers query a parent table, which holds no rows. The rows are in a table of the same name in one
of two schemas, the slots `<schema>__a` and `<schema>__b`. The parent inherits from one of them, the
live one. dbt builds into the other. Which one is live is read from Postgres' own catalog
(`pg_inherits`); the schema `<target's schema>_publish` records which run built it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2 import sql

from prefect_flows.publish.models import PublishedModel

SLOTS = ("a", "b")
# Postgres cuts off longer names.
MAX_NAME_BYTES = 63


def slot_schema(schema: str, slot: str) -> str:
    """Return the schema of a slot."""
    return f"{schema}__{slot}"


def other_slot(slot: str | None) -> str:
    """Return the slot to build into if this one is live."""
    return SLOTS[1] if slot == SLOTS[0] else SLOTS[0]


@dataclass(frozen=True)
class Relation:
    """A table, view or other relation, as Postgres' catalog has it."""

    oid: int
    kind: str
    is_owned: bool


@dataclass(frozen=True)
class PublishedState:
    """What readers see of a model now, and which runs built it.

    Attributes:
        parent: the relation that readers query; None if it does not exist.
        live_slot: the slot that it inherits from; None if the model was never published.
        live_run: the run that built what readers see.
        live_since: when it was published, UTC.
        previous_run: the run whose rows are complete in the other slot, and can be shown again.
        build_run: the run that last built into the other slot.
        is_edited: whether somebody changed the published rows by hand since they were published.
        unanalyzed_rows: how many published rows changed since the parent was analyzed; None if it
            has to be analyzed.
    """

    parent: Relation | None = None
    live_slot: str | None = None
    live_run: str | None = None
    live_since: datetime | None = None
    previous_run: str | None = None
    build_run: str | None = None
    is_edited: bool = False
    unanalyzed_rows: int | None = None

    @property
    def build_slot(self) -> str:
        """The slot that dbt builds into."""
        return other_slot(self.live_slot)


@dataclass(frozen=True)
class Column:
    """A column: name, type with modifier as SQL, collation."""

    name: str
    type: str
    collation: int


def table(schema: str, name: str) -> sql.Identifier:
    """Return the quoted name of a relation."""
    return sql.Identifier(schema, name)


def own_schema(target_schema: str) -> str:
    """Return the schema of the tables in which publishing keeps its own records."""
    return f"{target_schema}_publish"


RECORDS = "published_relations"

CREATE_RECORDS = """
create table if not exists {records} (
    schema_name text not null,
    relation_name text not null,
    live_run text,
    live_since timestamptz,
    previous_run text,
    build_run text,
    is_edited boolean not null default false,
    -- How many rows changed since readers' table was analyzed; null if it has to be analyzed.
    unanalyzed_rows bigint,
    primary key (schema_name, relation_name)
)
"""


def read_states(
    cursor: Any, target_schema: str, models: Sequence[PublishedModel]
) -> dict[str, PublishedState]:
    """Return id → state of each model; the records need not exist yet."""
    wanted = tuple(model.key for model in models)
    if not wanted:
        return {}
    parents = {
        (schema, name): (Relation(oid, kind, is_owned), live)
        for schema, name, oid, kind, is_owned, live in _query(
            cursor,
            """
            select
                parent_schema.nspname, parent.relname, parent.oid::bigint, parent.relkind::text,
                pg_has_role(parent.relowner, 'USAGE'),
                (
                    select right(child_schema.nspname, 1)
                    from pg_inherits
                    join pg_class as child on child.oid = inhrelid
                    join pg_namespace as child_schema on child_schema.oid = child.relnamespace
                    where inhparent = parent.oid
                        and child.relname = parent.relname
                        and child_schema.nspname in (
                            parent_schema.nspname || '__a', parent_schema.nspname || '__b'
                        )
                )
            from pg_class as parent
            join pg_namespace as parent_schema on parent_schema.oid = parent.relnamespace
            where (parent_schema.nspname, parent.relname) in %s
                and parent.relkind in ('r', 'v', 'm', 'p', 'f')
            """,
            wanted,
        )
    }
    records = {}
    schema = own_schema(target_schema)
    cursor.execute("select to_regclass(format('%%I.%%I', %s, %s))", (schema, RECORDS))
    if cursor.fetchone()[0] is not None:
        query = sql.SQL(
            "select schema_name, relation_name, live_run, live_since, previous_run, build_run,"
            " is_edited, unanalyzed_rows"
            " from {} where (schema_name, relation_name) in {}"
        ).format(table(schema, RECORDS), sql.Literal(wanted))
        records = {(row[0], row[1]): row[2:] for row in _query(cursor, query)}
    states = {}
    for model in models:
        parent, live_slot = parents.get(model.key, (None, None))
        run, since, previous, build, is_edited, unanalyzed = records.get(
            model.key, (*(None,) * 4, False, None)
        )
        if live_slot is None:
            run = since = previous = None
        states[model.unique_id] = PublishedState(
            parent, live_slot, run, since, previous, build, is_edited, unanalyzed
        )
    return states


def _query(cursor: Any, query: str | sql.Composable, *values: Any) -> list[tuple[Any, ...]]:
    # Without values, a percent sign in a name is not a placeholder.
    cursor.execute(query, values or None)
    return list(cursor.fetchall())


def create_schema(cursor: Any, name: str) -> None:
    """Create a schema that does not exist.

    `create schema if not exists` needs the privilege to create it even if it exists.
    """
    if not _query(cursor, "select from pg_namespace where nspname = %s", name):
        cursor.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(name)))


def find_relation(cursor: Any, schema: str, name: str) -> Relation | None:
    """Return a relation by its name; None if it does not exist."""
    rows = _query(
        cursor,
        "select c.oid::bigint, c.relkind::text, pg_has_role(c.relowner, 'USAGE') from pg_class as c"
        " join pg_namespace as n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = %s and c.relkind in ('r', 'v', 'm', 'p', 'f')",
        schema,
        name,
    )
    return Relation(*rows[0]) if rows else None


def has_own_rows(cursor: Any, parent: sql.Identifier) -> bool:
    """Return whether a parent holds rows itself."""
    cursor.execute(sql.SQL("select exists (select from only {})").format(parent))
    return bool(cursor.fetchone()[0])


def read_columns(cursor: Any, oid: int) -> list[Column]:
    """Return the columns of a relation in order."""
    return [
        Column(*row)
        for row in _query(
            cursor,
            "select attname::text, format_type(atttypid, atttypmod), attcollation::bigint"
            " from pg_attribute where attrelid = %s and attnum > 0 and not attisdropped"
            " order by attnum",
            oid,
        )
    ]


def read_grants(cursor: Any, oid: int) -> set[tuple[str, str, bool]]:
    """Return the grants on a relation: quoted role or `public`, privilege, with grant option."""
    return {
        tuple(row)
        for row in _query(
            cursor,
            "select case grantee when 0 then 'public' else grantee::regrole::text end,"
            " privilege_type, is_grantable"
            " from pg_class, aclexplode(relacl) where oid = %s and grantee <> relowner",
            oid,
        )
    }


def find_dependents(cursor: Any, oid: int, columns: Iterable[str] | None = None) -> list[str]:
    """Return what depends on a relation, or on some of its columns: views, policies, functions.

    Args:
        cursor: a cursor.
        oid: the relation.
        columns: names of columns; None for everything that depends on the relation.
    """
    names = None if columns is None else list(columns)
    return [
        row[0]
        for row in _query(
            cursor,
            """
            select distinct
                case
                    when d.classid = 'pg_rewrite'::regclass
                    then (select ev_class::regclass::text from pg_rewrite where oid = d.objid)
                    else pg_describe_object(d.classid, d.objid, d.objsubid)
                end as dependent
            from pg_depend as d
            left join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
            where d.refclassid = 'pg_class'::regclass
                and d.refobjid = %s
                and d.deptype = 'n'
                and (%s::text[] is null or a.attname::text = any(%s::text[]))
                and not (
                    d.classid = 'pg_rewrite'::regclass
                    and (select ev_class from pg_rewrite where oid = d.objid) = d.refobjid
                )
                and not exists (
                    select from pg_inherits where inhrelid = d.objid and inhparent = d.refobjid
                )
            order by 1
            """,
            oid,
            names,
            names,
        )
    ]
