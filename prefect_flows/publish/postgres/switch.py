"""Shows readers another slot of some models, all in one transaction.

The parent table that readers query stays the same object, so their views, grants and comments stay.
Only its child changes: `alter table … no inherit` and `inherit`, which take milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql

from prefect_flows.publish.models import PublishedModel
from prefect_flows.publish.postgres.catalog import (
    RECORDS,
    Column,
    PublishedState,
    find_dependents,
    find_relation,
    has_own_rows,
    own_schema,
    read_columns,
    read_grants,
    slot_schema,
    table,
)

# Rows that somebody inserts into the parent would be in no slot and stay visible for ever. Other
# changes through the parent reach the live slot, but do not fire its triggers.
CREATE_PARENT_FUNCTION = """
create or replace function {function}() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'INSERT' then
        raise exception 'the table %.% is published: its rows come from dbt', tg_table_schema,
            tg_table_name
            using hint = 'Load the rows into a source or a seed, and read it in the model.';
    end if;
    update {records} set is_edited = true, previous_run = null, build_run = null
    where schema_name = tg_table_schema and relation_name = tg_table_name;
    return null;
end
$$
"""
PARENT_FUNCTION = "on_change_by_hand"


@dataclass(frozen=True)
class ParentChange:
    """How the columns of a parent have to change to fit the rows that it will show."""

    added: Sequence[Column]
    removed: Sequence[str]
    retyped: Sequence[Column]

    @property
    def lost(self) -> list[str]:
        """Columns that readers' views cannot go on using."""
        return [*self.removed, *(column.name for column in self.retyped)]


def compare_columns(parent: Sequence[Column], child: Sequence[Column]) -> ParentChange:
    """Compare the columns of a parent with those of the table that it will show."""
    before = {column.name: column for column in parent}
    after = {column.name: column for column in child}
    return ParentChange(
        added=[column for column in child if column.name not in before],
        removed=[name for name in before if name not in after],
        retyped=[c for c in child if c.name in before and before[c.name] != c],
    )


def find_broken_dependents(
    cursor: Any, models: Iterable[PublishedModel], states: Mapping[str, PublishedState]
) -> list[str]:
    """Return one line for each object of a reader that could not go on after the switch.

    These are views that use a column that the new rows lack or have with another type, everything
    that depends on a view that becomes a table, and foreign keys to a table that loses its rows.

    Args:
        cursor: a cursor.
        models: the models to switch.
        states: their states.
    """
    broken = []
    for model in models:
        state = states[model.unique_id]
        if state.parent is None:
            continue
        if state.parent.kind in ("v", "m"):
            broken += [
                f"{dependent} depends on {model}, which is a view and becomes a table"
                for dependent in find_dependents(cursor, state.parent.oid)
            ]
            continue
        if state.live_slot is None:
            broken += [
                f"the foreign key {name} of {referring} refers to {model}, whose rows move"
                for referring, name in _fetch(
                    cursor,
                    "select conrelid::regclass::text, conname::text from pg_constraint"
                    " where confrelid = %s and conrelid <> confrelid order by 1, 2",
                    state.parent.oid,
                )
            ]
        child = find_relation(cursor, slot_schema(model.schema, state.build_slot), model.name)
        if child is None:
            continue
        change = compare_columns(
            read_columns(cursor, state.parent.oid), read_columns(cursor, child.oid)
        )
        for name in change.lost:
            what = "loses" if name in change.removed else "changes the type of"
            broken += [
                f"{dependent} uses the column {name}, and {model} {what} it"
                for dependent in find_dependents(cursor, state.parent.oid, [name])
            ]
    return broken


def switch(
    cursor: Any,
    target_schema: str,
    models: Sequence[PublishedModel],
    states: Mapping[str, PublishedState],
) -> None:
    """Make the parents inherit from the build slots; runs in one transaction.

    The parents are locked first, all of them, so that a statement that reads several models sees
    either all old or all new rows.

    Args:
        cursor: a cursor; the caller sets the timeouts and commits.
        target_schema: the target's schema.
        models: the models to switch.
        states: their states.
    """
    existing = [model for model in models if states[model.unique_id].parent is not None]
    tables = [model for model in existing if states[model.unique_id].parent.kind == "r"]  # type: ignore[union-attr]
    if tables:
        names = sql.SQL(", ").join(
            sql.SQL("only {}").format(table(model.schema, model.name)) for model in tables
        )
        cursor.execute(sql.SQL("lock table {} in access exclusive mode").format(names))
    cursor.execute(
        sql.SQL(CREATE_PARENT_FUNCTION).format(
            function=table(own_schema(target_schema), PARENT_FUNCTION),
            records=table(own_schema(target_schema), RECORDS),
        )
    )
    for model in models:
        _switch_model(cursor, target_schema, model, states[model.unique_id])


def _switch_model(
    cursor: Any, target_schema: str, model: PublishedModel, state: PublishedState
) -> None:
    parent = table(model.schema, model.name)
    child = table(slot_schema(model.schema, state.build_slot), model.name)
    found = find_relation(cursor, *child.strings)
    if found is None or found.kind != "r":
        raise LookupError(f"no table {'.'.join(child.strings)} to publish")
    grants: set[tuple[str, str, bool]] = set()
    if state.parent is not None and state.parent.kind in ("v", "m"):
        grants = read_grants(cursor, state.parent.oid)
        kind = "view" if state.parent.kind == "v" else "materialized view"
        cursor.execute(sql.SQL(f"drop {kind} {{}}").format(parent))
    if state.parent is None or state.parent.kind in ("v", "m"):
        cursor.execute(
            sql.SQL("create table {} as select * from only {} with no data").format(parent, child)
        )
    elif state.live_slot is None:
        _empty_table(cursor, state.parent.oid, parent)
    else:
        old = table(slot_schema(model.schema, state.live_slot), model.name)
        cursor.execute(sql.SQL("alter table {} no inherit {}").format(old, parent))
        if has_own_rows(cursor, parent):
            cursor.execute(sql.SQL("truncate only {}").format(parent))
    oid = find_relation(cursor, model.schema, model.name).oid  # type: ignore[union-attr]
    _change_columns(
        cursor, parent, compare_columns(read_columns(cursor, oid), read_columns(cursor, found.oid))
    )
    cursor.execute(sql.SQL("alter table {} inherit {}").format(child, parent))
    _guard_parent(cursor, target_schema, parent)
    revoked = set()
    if state.live_slot is not None:
        before = find_relation(cursor, slot_schema(model.schema, state.live_slot), model.name)
        revoked = read_grants(cursor, before.oid) if before is not None else set()
    granted = read_grants(cursor, found.oid)
    _apply_grants(cursor, parent, granted=grants | granted, revoked=revoked - granted)
    _copy_comments(cursor, found.oid, parent)


def _empty_table(cursor: Any, oid: int, parent: sql.Identifier) -> None:
    """Make a table that dbt built the parent of the published rows: without rows and constraints.

    Readers' views refer to this table, so it stays.
    """
    # Keys before NOT NULL, which they need. Before version 18, NOT NULL was not a constraint.
    for (name,) in _fetch(
        cursor,
        "select conname::text from pg_constraint where conrelid = %s and contype <> 't'"
        " order by contype = 'n'",
        oid,
    ):
        cursor.execute(
            sql.SQL("alter table only {} drop constraint {}").format(parent, sql.Identifier(name))
        )
    for (name,) in _fetch(
        cursor,
        "select attname::text from pg_attribute where attrelid = %s and attnum > 0 and attnotnull"
        " and not attisdropped",
        oid,
    ):
        cursor.execute(
            sql.SQL("alter table only {} alter column {} drop not null").format(
                parent, sql.Identifier(name)
            )
        )
    cursor.execute(sql.SQL("truncate only {}").format(parent))


def _change_columns(cursor: Any, parent: sql.Identifier, change: ParentChange) -> None:
    steps = [sql.SQL("drop column {}").format(sql.Identifier(name)) for name in change.removed]
    for column in change.retyped:
        name, type_ = sql.Identifier(column.name), sql.SQL(column.type)
        steps.append(
            sql.SQL("alter column {} type {}{} using null").format(
                name, type_, _collate(cursor, column)
            )
        )
    steps += [
        sql.SQL("add column {} {}{}").format(
            sql.Identifier(column.name), sql.SQL(column.type), _collate(cursor, column)
        )
        for column in change.added
    ]
    if steps:
        cursor.execute(sql.SQL("alter table only {} {}").format(parent, sql.SQL(", ").join(steps)))


def _collate(cursor: Any, column: Column) -> sql.Composable:
    if not column.collation:
        return sql.SQL("")
    ((schema, name),) = _fetch(
        cursor,
        "select nspname::text, collname::text from pg_collation"
        " join pg_namespace as n on n.oid = collnamespace where pg_collation.oid = %s",
        column.collation,
    )
    return sql.SQL(" collate {}").format(table(schema, name))


def _guard_parent(cursor: Any, target_schema: str, parent: sql.Identifier) -> None:
    function = table(own_schema(target_schema), PARENT_FUNCTION)
    for event in ("insert", "update", "delete", "truncate"):
        cursor.execute(
            sql.SQL(
                "create or replace trigger {} before {} on {}"
                " for each statement execute function {}()"
            ).format(sql.Identifier(f"guard_{event}"), sql.SQL(event), parent, function)
        )


def _apply_grants(
    cursor: Any,
    parent: sql.Identifier,
    *,
    granted: set[tuple[str, str, bool]],
    revoked: set[tuple[str, str, bool]],
) -> None:
    """Grant what dbt granted on the new rows; revoke what it no longer grants.

    Grants that somebody else made on the parent stay.
    """
    for role, privilege, _ in sorted(revoked):
        cursor.execute(
            sql.SQL("revoke {} on {} from {}").format(sql.SQL(privilege), parent, sql.SQL(role))
        )
    for role, privilege, grantable in sorted(granted):
        option = sql.SQL(" with grant option" if grantable else "")
        cursor.execute(
            sql.SQL("grant {} on {} to {}{}").format(
                sql.SQL(privilege), parent, sql.SQL(role), option
            )
        )


def _copy_comments(cursor: Any, child_oid: int, parent: sql.Identifier) -> None:
    """Give the parent the descriptions that dbt wrote; comments that dbt has none for stay."""
    for column, text in _fetch(
        cursor,
        "select a.attname::text, d.description from pg_description as d"
        " left join pg_attribute as a on a.attrelid = d.objoid and a.attnum = d.objsubid"
        " and d.objsubid > 0"
        " where d.classoid = 'pg_class'::regclass and d.objoid = %s",
        child_oid,
    ):
        target = (
            sql.SQL("table {}").format(parent)
            if column is None
            else sql.SQL("column {}.{}").format(parent, sql.Identifier(column))
        )
        cursor.execute(sql.SQL("comment on {} is {}").format(target, sql.Literal(text)))


def _fetch(cursor: Any, query: str, *values: Any) -> list[tuple[Any, ...]]:
    cursor.execute(query, values or None)
    return list(cursor.fetchall())
