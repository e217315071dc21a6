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
    SLOTS,
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

# The locks that disturb readers are given up after this part of `deadlock_timeout`.
DEADLOCK_SHARE = 0.8
# Postgres cancels an autovacuum that somebody waits for after `deadlock_timeout`.
AUTOVACUUM_SECONDS = 2.0


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
    models = list(models)
    replaced_views = {
        name
        for model in models
        if (parent := states[model.unique_id].parent) is not None and parent.kind in ("v", "m")
        for (name,) in _fetch(cursor, "select %s::regclass::text", parent.oid)
    }
    own_tables = _find_own_tables(cursor, models)
    broken = []
    for model in models:
        state = states[model.unique_id]
        if state.parent is None:
            continue
        if state.parent.kind in ("v", "m"):
            broken += [
                f"{dependent} depends on {model}, which is a view and becomes a table"
                for dependent in find_dependents(cursor, state.parent.oid)
                if dependent not in replaced_views
            ]
            continue
        if state.live_slot is None:
            broken += [
                f"the foreign key {name} of {referring} refers to {model}, whose rows move"
                for oid, referring, name in _find_foreign_keys(cursor, state.parent.oid)
                if oid not in own_tables
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


def lock_for_switch(
    cursor: Any,
    models: Sequence[PublishedModel],
    states: Mapping[str, PublishedState],
    *,
    lock_seconds: float,
) -> None:
    """Lock everything that the switch changes, in one transaction with it.

    A statement that reads several models then sees either all old or all new rows.

    The whole wait ends before Postgres looks for deadlocks (`deadlock_timeout`): a reader that
    waits for one of these locks while it holds another would be cancelled then. The first lock
    disturbs no reader. It makes autovacuum give way, for which Postgres takes that long.

    Args:
        cursor: a cursor.
        models: the models to switch.
        states: their states.
        lock_seconds: how long each lock may take.
    """
    children = [
        table(slot_schema(model.schema, slot), model.name)
        for model in models
        for slot in (states[model.unique_id].build_slot, states[model.unique_id].live_slot)
        if slot is not None
    ]
    parents = [
        table(model.schema, model.name)
        for model in models
        if (parent := states[model.unique_id].parent) is not None and parent.kind == "r"
    ]
    ((deadlock,),) = _fetch(
        cursor, "select setting::float / 1000 from pg_settings where name = 'deadlock_timeout'"
    )
    _set_timeouts(cursor, deadlock + AUTOVACUUM_SECONDS, 0)
    _lock(cursor, children, "share update exclusive")
    seconds = deadlock * DEADLOCK_SHARE
    _set_timeouts(cursor, min(lock_seconds, seconds), seconds)
    _lock(cursor, [*parents, *children], "access exclusive")
    _set_timeouts(cursor, min(lock_seconds, deadlock - seconds), 0)


def _set_timeouts(cursor: Any, lock_seconds: float, statement_seconds: float) -> None:
    for name, seconds in (("lock", lock_seconds), ("statement", statement_seconds)):
        # Zero is no timeout.
        milliseconds = max(int(seconds * 1000), 1) if seconds else 0
        cursor.execute(f"set local {name}_timeout = '{milliseconds}ms'")


def _lock(cursor: Any, tables: Sequence[sql.Identifier], mode: str) -> None:
    names = sql.SQL(", ").join(sql.SQL("only {}").format(each) for each in tables)
    cursor.execute(sql.SQL("lock table {} in {} mode").format(names, sql.SQL(mode)))


def find_missing_tables(
    cursor: Any, models: Iterable[PublishedModel], states: Mapping[str, PublishedState]
) -> list[str]:
    """Return the tables that the switch would show, but that do not exist."""
    missing = []
    for model in models:
        schema = slot_schema(model.schema, states[model.unique_id].build_slot)
        found = find_relation(cursor, schema, model.name)
        if found is None or found.kind != "r":
            missing.append(f"{schema}.{model.name}")
    return missing


def switch(
    cursor: Any,
    target_schema: str,
    models: Sequence[PublishedModel],
    states: Mapping[str, PublishedState],
) -> None:
    """Make the parents inherit from the build slots; runs in one transaction.

    `lock_for_switch` comes before it in the same transaction.

    Args:
        cursor: a cursor; the caller sets the timeouts and commits.
        target_schema: the target's schema.
        models: the models to switch.
        states: their states.
    """
    cursor.execute(
        sql.SQL(CREATE_PARENT_FUNCTION).format(
            function=table(own_schema(target_schema), PARENT_FUNCTION),
            records=table(own_schema(target_schema), RECORDS),
        )
    )
    grants = _drop_views(cursor, models, states)
    _drop_foreign_keys(cursor, models, states)
    for model in models:
        _switch_model(
            cursor,
            target_schema,
            model,
            states[model.unique_id],
            grants.get(model.unique_id, set()),
        )


def _find_own_tables(cursor: Any, models: Sequence[PublishedModel]) -> set[int]:
    """Return the oids of the models' tables: parents, and those in the slots."""
    names = {
        (schema, model.name)
        for model in models
        for schema in (model.schema, *(slot_schema(model.schema, slot) for slot in SLOTS))
    }
    if not names:
        return set()
    return {
        oid
        for (oid,) in _fetch(
            cursor,
            "select c.oid::bigint from pg_class as c join pg_namespace as n"
            " on n.oid = c.relnamespace where c.relkind = 'r' and (n.nspname, c.relname) in %s",
            tuple(names),
        )
    }


def _find_foreign_keys(cursor: Any, oid: int) -> list[tuple[int, str, str]]:
    """Return the foreign keys of other tables that refer to a table: oid, table, name."""
    return [
        (referring, table_name, name)
        for referring, table_name, name in _fetch(
            cursor,
            "select conrelid::bigint, conrelid::regclass::text, conname::text from pg_constraint"
            " where confrelid = %s and contype = 'f' and conrelid <> confrelid order by 2, 3",
            oid,
        )
    ]


def _drop_views(
    cursor: Any, models: Sequence[PublishedModel], states: Mapping[str, PublishedState]
) -> dict[str, set[tuple[str, str, bool]]]:
    """Drop the views that become tables, those that read others first; return id → grants."""
    grants = {}
    views = {
        model.unique_id: (model, parent)
        for model in models
        if (parent := states[model.unique_id].parent) is not None and parent.kind in ("v", "m")
    }
    while views:
        unread = [i for i, (_, view) in views.items() if not find_dependents(cursor, view.oid)]
        # If a reader has made an object since the check, Postgres names it.
        for unique_id in unread or list(views):
            model, view = views.pop(unique_id)
            grants[unique_id] = read_grants(cursor, view.oid)
            kind = "view" if view.kind == "v" else "materialized view"
            cursor.execute(sql.SQL(f"drop {kind} {{}}").format(table(model.schema, model.name)))
    return grants


def _drop_foreign_keys(
    cursor: Any, models: Sequence[PublishedModel], states: Mapping[str, PublishedState]
) -> None:
    """Drop the foreign keys among tables that lose their rows, which keep their keys from going."""
    own_tables = _find_own_tables(cursor, models)
    for model in models:
        state = states[model.unique_id]
        if state.parent is None or state.parent.kind != "r" or state.live_slot is not None:
            continue
        for oid, referring, name in _find_foreign_keys(cursor, state.parent.oid):
            if oid in own_tables:
                cursor.execute(
                    sql.SQL("alter table {} drop constraint {}").format(
                        sql.SQL(referring), sql.Identifier(name)
                    )
                )


def _switch_model(
    cursor: Any,
    target_schema: str,
    model: PublishedModel,
    state: PublishedState,
    grants: set[tuple[str, str, bool]],
) -> None:
    parent = table(model.schema, model.name)
    child = table(slot_schema(model.schema, state.build_slot), model.name)
    child_oid = find_relation(cursor, *child.strings).oid  # type: ignore[union-attr]
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
        cursor, parent, compare_columns(read_columns(cursor, oid), read_columns(cursor, child_oid))
    )
    cursor.execute(sql.SQL("alter table {} inherit {}").format(child, parent))
    _guard_parent(cursor, target_schema, parent)
    revoked = set()
    if state.live_slot is not None:
        before = find_relation(cursor, slot_schema(model.schema, state.live_slot), model.name)
        revoked = read_grants(cursor, before.oid) if before is not None else set()
    granted = read_grants(cursor, child_oid)
    _apply_grants(cursor, parent, granted=grants | granted, revoked=revoked - granted)
    _copy_comments(cursor, child_oid, parent)


def _empty_table(cursor: Any, oid: int, parent: sql.Identifier) -> None:
    """Make a table that dbt built the parent of the published rows: without rows and constraints.

    Readers' views refer to this table, so it stays.
    """
    # Foreign keys before the keys they refer to, and these before NOT NULL, which they need. Before
    # version 18, NOT NULL was not a constraint.
    for (name,) in _fetch(
        cursor,
        "select conname::text from pg_constraint where conrelid = %s and contype <> 't'"
        " order by contype <> 'f', contype = 'n'",
        oid,
    ):
        cursor.execute(
            sql.SQL("alter table only {} drop constraint {}").format(parent, sql.Identifier(name))
        )
    # A default could keep a column from changing its type.
    for name, what in _fetch(
        cursor,
        "select attname::text, case when attidentity <> '' then 'identity'"
        " when attgenerated <> '' then 'expression' else 'default' end from pg_attribute"
        " where attrelid = %s and attnum > 0 and (atthasdef or attidentity <> '')"
        " and not attisdropped",
        oid,
    ):
        cursor.execute(
            sql.SQL(f"alter table only {{}} alter column {{}} drop {what}").format(
                parent, sql.Identifier(name)
            )
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
    # An index on an expression could keep a column from changing its type.
    for (name,) in _fetch(
        cursor, "select indexrelid::regclass::text from pg_index where indrelid = %s", oid
    ):
        cursor.execute(sql.SQL("drop index {}").format(sql.SQL(name)))
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
