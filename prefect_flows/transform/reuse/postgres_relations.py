"""Reads the state of Postgres relations: object id, counts of changed rows, definition of views."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import psycopg2

from prefect_flows.core.errors import WarehouseUnreachable
from prefect_flows.core.hints import get_hint
from prefect_flows.core.postgres import application_name
from prefect_flows.transform.session import DbtSession

# A Postgres connection adds its counts to the table's when it ends, shortly after the client closed
# it. If it takes longer than this, the table counts as changed once.
MAX_STATISTICS_WAIT_SECONDS = 2.0
STATISTICS_POLL_SECONDS = 0.01
# relkind of a view, and of a foreign table: their state says nothing about their rows.
_WITHOUT_COUNTS = frozenset({"v", "f"})

_POSTGRES_STATES = """
    select
        wanted.name,
        class.relkind::text,
        concat_ws(
            ' ',
            -- Changes when a view is replaced.
            (select rule.xmin from pg_rewrite as rule
             where rule.ev_class = class.oid and rule.rulename = '_RETURN'),
            -- A published table holds its rows in a child, a partitioned one in its partitions.
            (select
                 sum(
                     pg_stat_get_tuples_inserted(part.oid)
                     + pg_stat_get_tuples_updated(part.oid)
                     + pg_stat_get_tuples_deleted(part.oid)
                 )
                 || ' ' || string_agg(
                     concat(part.oid, ':', part.relfilenode), ',' order by part.oid
                 )
             from (
                 select class.oid
                 union
                 select inhrelid from pg_inherits where inhparent = class.oid
                 union
                 select relid from pg_partition_tree(class.oid) where class.relkind = 'p'
             ) as family
             join pg_class as part on part.oid = family.oid),
            -- A crash of the server resets all counts.
            (select stats_reset from pg_stat_database where datname = current_database())
        )
    from unnest(%s::text[]) as wanted (name)
    join pg_class as class on class.oid = to_regclass(wanted.name)
"""


def read_postgres(session: DbtSession, nodes: Mapping[str, Any], run: str) -> dict[str, str | None]:
    """Return the state of each relation; relations in other databases are left out.

    Args:
        session: the dbt project and its target.
        nodes: node id → node.
        run: id of the run, which names its connections.

    Raises:
        WarehouseUnreachable: Postgres does not answer, or refuses.
    """
    database = str(session.profile.output["dbname"])
    local = {i: node for i, node in nodes.items() if node.database == database}
    with session.connection() as connection:
        try:
            return _read(connection, local, run)
        except psycopg2.Error as error:
            raise WarehouseUnreachable(
                f"Cannot read from Postgres which tables changed: {' '.join(str(error).split())}",
                where=session.profile.address,
                fix=get_hint(error, session.profile),
            ) from error


def _read(connection: Any, nodes: Mapping[str, Any], run: str) -> dict[str, str | None]:
    with closing(connection.cursor()) as cursor:
        _wait_for_statistics(cursor, run)
        cursor.execute("select current_setting('track_counts')::bool")
        if not cursor.fetchone()[0]:
            return {}
        cursor.execute(_POSTGRES_STATES, ([node.relation_name for node in nodes.values()],))
        states = {name: (kind, state) for name, kind, state in cursor.fetchall()}
    found: dict[str, str | None] = {}
    for unique_id, node in nodes.items():
        kind, state = states.get(node.relation_name, (None, None))
        is_source = str(node.resource_type) == "source"
        found[unique_id] = None if is_source and kind in _WITHOUT_COUNTS else state
    return found


def _wait_for_statistics(cursor: Any, run: str) -> None:
    """Wait until the closed connections of this run have added their counts.

    All connections of a run have the same `application_name`.
    """
    deadline = time.monotonic() + MAX_STATISTICS_WAIT_SECONDS
    while time.monotonic() < deadline:
        cursor.execute(
            "select count(*) from pg_stat_activity"
            " where application_name = %s and pid <> pg_backend_pid()",
            (application_name(run),),
        )
        if cursor.fetchone()[0] == 0:
            return
        # Statistics are read once in a transaction.
        cursor.connection.rollback()
        time.sleep(STATISTICS_POLL_SECONDS)
