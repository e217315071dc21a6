"""Brings the build slot of a model to the published rows, before dbt changes it.

An incremental model or a snapshot starts from the published rows. Copying all rows at each run
would take longer than the run: the other slot holds the rows of the run before, so only what has
changed since is copied. Triggers record the keys of changed rows: those with a unique key, and
whole transactions for a table that only grows. If the records do not cover every change (another
kind of change, new columns, a key with nulls, a table that dbt has replaced), all rows are copied.
"""

from __future__ import annotations

import hashlib
from typing import Any

from psycopg2 import sql

from prefect_flows.publish.models import PublishedModel
from prefect_flows.publish.postgres.catalog import (
    SLOTS,
    Column,
    PublishedState,
    find_relation,
    has_own_rows,
    own_schema,
    read_columns,
    slot_schema,
    table,
)

# One function for all tables. Its arguments: the table of changes, and the columns of the key.
CREATE_TRIGGER_FUNCTION = """
create or replace function {function}() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    keys text := tg_argv[1];
begin
    if current_setting('{copying}', true) = 'on' then
        return null;
    end if;
    if tg_op = 'TRUNCATE' or keys = '' and tg_op <> 'INSERT' then
        execute format('insert into %s ("everything changed") values (true)', tg_argv[0]);
    elsif keys = '' then
        execute format(
            'insert into %s (transaction_id, row_count)'
            ' select pg_current_xact_id()::xid, count(*) from new_rows having count(*) > 0',
            tg_argv[0]
        );
    else
        if tg_op <> 'DELETE' then
            execute format('insert into %1$s (%2$s) select %2$s from new_rows', tg_argv[0], keys);
        end if;
        if tg_op <> 'INSERT' then
            execute format('insert into %1$s (%2$s) select %2$s from old_rows', tg_argv[0], keys);
        end if;
    end if;
    return null;
end
$$
"""
TRIGGERS = (
    ("insert", "referencing new table as new_rows"),
    ("update", "referencing new table as new_rows old table as old_rows"),
    ("delete", "referencing old table as old_rows"),
    ("truncate", ""),
)
FUNCTION = "record_changes"
# On while rows are copied, which is no change of its own. Disabling the triggers would do the same,
# but needs a lock that waits for autovacuum and cancels it.
COPYING = "millrace.copying"
RANDOM_PAGE_COST = 1.1
# The column that a key cannot have the name of.
EVERYTHING = "everything changed"


def copy_published_rows(
    cursor: Any, target_schema: str, model: PublishedModel, state: PublishedState
) -> str:
    """Make the build slot of a model equal to what readers see; runs in one transaction.

    Args:
        cursor: a cursor; the caller commits.
        target_schema: the target's schema.
        model: a model that keeps its rows.
        state: its state.

    Returns:
        What was copied: `changed rows`, `all rows`, or `nothing` if nothing is published.
    """
    build_schema = slot_schema(model.schema, state.build_slot)
    build = table(build_schema, model.name)
    source_schema = (
        model.schema if state.live_slot is None else slot_schema(model.schema, state.live_slot)
    )
    source = find_relation(cursor, source_schema, model.name)
    if source is None or source.kind != "r":
        # Rows that a failed first run left were never published.
        _drop(cursor, build_schema, model.name)
        return "nothing"
    columns = read_columns(cursor, source.oid)
    parent = table(model.schema, model.name)
    # Publishing was turned off for a while, and dbt wrote into the parent.
    is_mixed = state.live_slot is not None and has_own_rows(cursor, parent)
    existing = find_relation(cursor, build_schema, model.name)
    if (
        existing is not None
        and existing.kind == "r"
        and state.live_slot is not None
        and not state.is_edited
        and not is_mixed
        and set(read_columns(cursor, existing.oid)) == set(columns)
        and _copy_changes(
            cursor, target_schema, model, state.live_slot, source.oid, existing.oid, columns
        )
    ):
        return "changed rows"
    _drop(cursor, build_schema, model.name)
    structure = table(source_schema, model.name)
    rows = parent if is_mixed else sql.SQL("only {}").format(structure)
    _copy_table(cursor, source.oid, structure, rows, build)
    if state.live_slot is not None and not is_mixed:
        _record_changes(cursor, target_schema, model, columns)
    return "all rows"


def _drop(cursor: Any, schema: str, name: str) -> None:
    existing = find_relation(cursor, schema, name)
    if existing is not None:
        kind = {"v": "view", "m": "materialized view", "f": "foreign table"}.get(
            existing.kind, "table"
        )
        cursor.execute(sql.SQL(f"drop {kind} {{}} cascade").format(table(schema, name)))


def _copy_table(
    cursor: Any,
    source_oid: int,
    source: sql.Identifier,
    rows: sql.Composable,
    build: sql.Identifier,
) -> None:
    """Copy a table with its rows; indexes and keys are built after the rows, which is faster."""
    cursor.execute(
        sql.SQL("create table {} (like {} including all excluding indexes)").format(build, source)
    )
    columns = sql.SQL(", ").join(
        sql.Identifier(name)
        for (name,) in _fetch(
            cursor,
            "select attname::text from pg_attribute where attrelid = %s and attnum > 0"
            " and not attisdropped and attgenerated = '' order by attnum",
            source_oid,
        )
    )
    cursor.execute(
        sql.SQL("insert into {} ({}) overriding system value select {} from {}").format(
            build, columns, columns, rows
        )
    )
    for (definition,) in _fetch(
        cursor,
        "select pg_get_constraintdef(oid) from pg_constraint"
        " where conrelid = %s and contype in ('p', 'u', 'x')",
        source_oid,
    ):
        cursor.execute(sql.SQL("alter table {} add {}").format(build, sql.SQL(definition)))
    for is_unique, definition in _fetch(
        cursor,
        "select indisunique, pg_get_indexdef(indexrelid) from pg_index"
        " where indrelid = %s and not exists"
        " (select from pg_constraint where conindid = indexrelid)",
        source_oid,
    ):
        # `CREATE INDEX name ON table USING method (columns) …`
        method = definition.partition(" USING ")[2]
        cursor.execute(
            sql.SQL("create {} on {} using {}").format(
                sql.SQL("unique index" if is_unique else "index"), build, sql.SQL(method)
            )
        )
    cursor.execute(sql.SQL("analyze {}").format(build))


def _changes_table(target_schema: str, model: PublishedModel, slot: str) -> sql.Identifier:
    name = hashlib.sha256("\0".join(model.key).encode()).hexdigest()[:16]
    return table(own_schema(target_schema), f"changes_{name}_{slot}")


def _record_changes(
    cursor: Any, target_schema: str, model: PublishedModel, columns: list[Column]
) -> None:
    """Start to record the changes of both slots, which are equal now."""
    function = table(own_schema(target_schema), FUNCTION)
    cursor.execute(
        sql.SQL(CREATE_TRIGGER_FUNCTION).format(function=function, copying=sql.SQL(COPYING))
    )
    known = {column.name: column for column in columns}
    keys = [known[key] for key in model.unique_key if key in known]
    if len(keys) != len(model.unique_key):
        return  # The key is an expression: all rows are copied every time.
    for slot in SLOTS:
        changes = _changes_table(target_schema, model, slot)
        slot_table = table(slot_schema(model.schema, slot), model.name)
        definitions: list[sql.Composable] = [
            sql.SQL("{} {}").format(sql.Identifier(key.name), sql.SQL(key.type)) for key in keys
        ] or [sql.SQL("transaction_id xid, row_count bigint")]
        cursor.execute(sql.SQL("drop table if exists {}").format(changes))
        cursor.execute(
            sql.SQL(
                # Each run empties it. Autovacuum would make the run wait.
                'create table {} ({}, "everything changed" boolean)'
                " with (autovacuum_enabled = false)"
            ).format(changes, sql.SQL(", ").join(definitions))
        )
        arguments = (
            changes.as_string(cursor),
            ", ".join(sql.Identifier(key.name).as_string(cursor) for key in keys),
        )
        recorded = find_relation(cursor, *slot_table.strings)
        cursor.execute(
            sql.SQL("comment on table {} is {}").format(
                changes,
                sql.Literal(_hash_columns(cursor, recorded.oid)),  # type: ignore[union-attr]
            )
        )
        for event, referencing in TRIGGERS:
            cursor.execute(
                sql.SQL(
                    "create or replace trigger {name} after {event} on {table} {referencing}"
                    " for each statement execute function {function}({arguments})"
                ).format(
                    name=sql.Identifier(f"record_{event}"),
                    event=sql.SQL(event),
                    table=slot_table,
                    referencing=sql.SQL(referencing),
                    function=function,
                    arguments=sql.SQL(", ").join(map(sql.Literal, arguments)),
                )
            )


def _hash_columns(cursor: Any, oid: int) -> str:
    """Return a hash that changes if a column is added, dropped, or dropped and added again."""
    columns = _fetch(
        cursor,
        "select attnum, attname::text, atttypid::bigint, atttypmod from pg_attribute"
        " where attrelid = %s and attnum > 0 and not attisdropped order by attnum",
        oid,
    )
    return hashlib.sha256(repr(columns).encode()).hexdigest()


def _copy_changes(
    cursor: Any,
    target_schema: str,
    model: PublishedModel,
    live_slot: str,
    live_oid: int,
    build_oid: int,
    columns: list[Column],
) -> bool:
    """Copy the rows that changed in either slot since both were equal; False if unknown."""
    build_slot = "b" if live_slot == "a" else "a"
    if not _has_changes_tables(cursor, target_schema, model):
        return False
    _lock_out_writers(cursor, target_schema, model, build_slot, build_oid)
    for slot, oid in ((live_slot, live_oid), (build_slot, build_oid)):
        if not _is_recorded(cursor, target_schema, model, slot, oid):
            return False
    live, build = (
        table(slot_schema(model.schema, slot), model.name) for slot in (live_slot, build_slot)
    )
    live_changes, build_changes = (
        _changes_table(target_schema, model, slot) for slot in (live_slot, build_slot)
    )
    generated = {
        name
        for (name,) in _fetch(
            cursor,
            "select attname::text from pg_attribute where attrelid = %s and attgenerated <> ''",
            build_oid,
        )
    }
    names = sql.SQL(", ").join(
        sql.Identifier(column.name) for column in columns if column.name not in generated
    )
    parts = {
        "live": live, "build": build, "live_changes": live_changes,
        "build_changes": build_changes, "columns": names,
    }  # fmt: skip
    _drop_foreign_keys(cursor, build_oid)
    cursor.execute(sql.SQL("set local {} = 'on'").format(sql.SQL(COPYING)))
    copied = (
        _copy_by_key(cursor, model.unique_key, parts)
        if model.unique_key
        else _copy_by_transaction(cursor, parts)
    )
    if not copied:
        return False
    cursor.execute(sql.SQL("truncate {live_changes}, {build_changes}").format(**parts))
    return True


def _has_changes_tables(cursor: Any, target_schema: str, model: PublishedModel) -> bool:
    return all(
        find_relation(cursor, *_changes_table(target_schema, model, slot).strings) is not None
        for slot in SLOTS
    )


def _lock_out_writers(
    cursor: Any, target_schema: str, model: PublishedModel, build_slot: str, build_oid: int
) -> None:
    """Wait for statements that write, and keep others from recording changes until the commit.

    A run that was killed may still write into the build slot: its statement ends on the server. A
    lock on the slot's table would also wait for autovacuum, so it is taken only if somebody writes.
    """
    writes = _fetch(
        cursor,
        "select from pg_locks where locktype = 'relation' and relation = %s"
        " and database = (select oid from pg_database where datname = current_database())"
        " and pid <> pg_backend_pid() and mode not in"
        " ('AccessShareLock', 'RowShareLock', 'ShareUpdateExclusiveLock')",
        build_oid,
    )
    if writes:
        cursor.execute(
            sql.SQL("lock table only {} in share row exclusive mode").format(
                table(slot_schema(model.schema, build_slot), model.name)
            )
        )
    # A change that is recorded between the copy and the `truncate` would be lost.
    cursor.execute(
        sql.SQL("lock table {}, {} in access exclusive mode").format(
            *(_changes_table(target_schema, model, slot) for slot in SLOTS)
        )
    )


def _drop_foreign_keys(cursor: Any, oid: int) -> None:
    """Drop foreign keys from and to a table of the build slot.

    The rows that they refer to are those of an earlier run, which the new rows need not fit. dbt
    creates such keys only with a table; it drops them whenever it replaces the table they refer to.
    """
    for owner, name in _fetch(
        cursor,
        "select conrelid::regclass::text, conname::text from pg_constraint"
        " where contype = 'f' and %s in (conrelid, confrelid)",
        oid,
    ):
        cursor.execute(
            sql.SQL("alter table {} drop constraint {}").format(
                sql.SQL(owner), sql.Identifier(name)
            )
        )


def _is_recorded(
    cursor: Any, target_schema: str, model: PublishedModel, slot: str, oid: int
) -> bool:
    """Return whether every change of a slot's table has been recorded, for the model's key."""
    changes = _changes_table(target_schema, model, slot)
    schema, name = changes.strings
    relation = find_relation(cursor, schema, name)
    if relation is None:
        return False
    ((triggers,),) = _fetch(
        cursor,
        "select count(*) from pg_trigger where tgrelid = %s and tgname like 'record\\_%%'"
        " and tgenabled = 'O'",
        oid,
    )
    recorded = [column.name for column in read_columns(cursor, relation.oid)]
    wanted = [*(model.unique_key or ("transaction_id", "row_count")), EVERYTHING]
    ((hashed,),) = _fetch(cursor, "select obj_description(%s, 'pg_class')", relation.oid)
    if triggers != len(TRIGGERS) or recorded != wanted or hashed != _hash_columns(cursor, oid):
        return False
    unknown = [sql.Identifier(EVERYTHING)] + [
        sql.SQL("{} is null").format(sql.Identifier(key)) for key in model.unique_key
    ]
    query = sql.SQL("select exists (select from {} where {})").format(
        changes, sql.SQL(" or ").join(unknown)
    )
    ((has_unknown,),) = _fetch(cursor, query)
    return not has_unknown


def count_changes(cursor: Any, target_schema: str, model: PublishedModel, slot: str) -> int | None:
    """Return how many rows of a slot changed since both slots were equal; None if unknown.

    A row that was changed twice counts twice.
    """
    if not model.keeps_rows or not _has_changes_tables(cursor, target_schema, model):
        return None
    relation = find_relation(cursor, slot_schema(model.schema, slot), model.name)
    if relation is None or not _is_recorded(cursor, target_schema, model, slot, relation.oid):
        return None
    ((count,),) = _fetch(
        cursor,
        sql.SQL("select {} from {}").format(
            sql.SQL("count(*)" if model.unique_key else "coalesce(sum(row_count), 0)::bigint"),
            _changes_table(target_schema, model, slot),
        ),
    )
    return int(count)


def _copy_by_key(cursor: Any, unique_key: tuple[str, ...], parts: dict[str, Any]) -> bool:
    keys = sql.SQL(", ").join(map(sql.Identifier, unique_key))
    matches = sql.SQL(" and ").join(
        sql.SQL("changed.{0} = published.{0}").format(sql.Identifier(key)) for key in unique_key
    )
    cursor.execute(
        sql.SQL(
            "create temporary table changed_keys on commit drop as"
            " select {keys} from {live_changes} union select {keys} from {build_changes}"
            # In the order of the index, whose pages are then read and extended one after the other.
            " order by {keys}"
        ).format(keys=keys, **parts)
    )
    cursor.execute("analyze changed_keys")
    # Postgres' default is for disks that seek: it would read ten million rows rather than look up a
    # hundred thousand by their index, which took eight times as long.
    cursor.execute(f"set local random_page_cost = {RANDOM_PAGE_COST}")
    cursor.execute(
        sql.SQL(
            "delete from {build} as published using changed_keys as changed where {matches}"
        ).format(matches=matches, **parts)
    )
    row = sql.SQL(", ").join(
        sql.SQL("published.{}").format(part) for part in parts["columns"].seq[::2]
    )
    cursor.execute(
        sql.SQL(
            "insert into {build} ({columns}) overriding system value"
            " select {row} from {live} as published join changed_keys as changed on {matches}"
        ).format(row=row, matches=matches, **parts)
    )
    return True


def _copy_by_transaction(cursor: Any, parts: dict[str, Any]) -> bool:
    """Replace the rows of recorded transactions; False if their number is not the recorded one."""
    for relation, changes, statement in (
        (
            "build",
            "build_changes",
            "delete from {relation} where xmin = any({transactions}::xid[])",
        ),
        (
            "live",
            "live_changes",
            "insert into {build} ({columns}) overriding system value"
            " select {columns} from {relation} where xmin = any({transactions}::xid[])",
        ),
    ):
        ((transactions, rows),) = _fetch(
            cursor,
            sql.SQL(
                "select coalesce(array_agg(distinct transaction_id::text), '{{}}'),"
                " coalesce(sum(row_count), 0) from {}"
            ).format(parts[changes]),
        )
        if not transactions:
            continue
        cursor.execute(
            sql.SQL(statement).format(
                relation=parts[relation],
                build=parts["build"],
                columns=parts["columns"],
                transactions=sql.Literal(transactions),
            )
        )
        if cursor.rowcount != rows:
            return False
    return True


def _fetch(cursor: Any, query: str | sql.Composable, *values: Any) -> list[tuple[Any, ...]]:
    cursor.execute(query, values or None)
    return list(cursor.fetchall())
