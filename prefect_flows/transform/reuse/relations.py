"""Reads the state of relations from the warehouse: a text that changes when their rows do.

Postgres counts the rows that each table got, changed and lost since its creation, and every new
table has a new object id. BigQuery stores when a table was last modified. Neither reads rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from prefect_flows.transform.session import DbtSession


def read_relation_states(
    session: DbtSession, unique_ids: Iterable[str], run: str
) -> dict[str, str | None]:
    """Return the state of the relation of each node; None if it is missing or cannot be known.

    The state of a view changes with its definition, not with its rows. For a source that is a view,
    a foreign table, or in another database of Postgres, it cannot be known.

    Args:
        session: the dbt project and its target.
        unique_ids: ids of sources, seeds, snapshots and models.
        run: id of the run.

    Raises:
        WarehouseUnreachable: the warehouse does not answer.
    """
    nodes = {unique_id: session.node(unique_id) for unique_id in unique_ids}
    found: dict[str, str | None] = dict.fromkeys(nodes)
    if not nodes:
        return found
    if session.profile.warehouse == "bigquery":
        from prefect_flows.transform.reuse.bigquery_relations import read_bigquery

        return found | read_bigquery(session, nodes)
    from prefect_flows.transform.reuse.postgres_relations import read_postgres

    return found | read_postgres(session, nodes, run)
