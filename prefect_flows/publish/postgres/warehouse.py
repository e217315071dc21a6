"""Publishing on Postgres: checks, preparation of the build slots, the switch, the way back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

import psycopg2
from psycopg2 import errors, sql

from prefect_flows.core.errors import PublishError
from prefect_flows.core.failure_class import FailureClass, classify
from prefect_flows.core.logger import Logger
from prefect_flows.core.profiles import Profile
from prefect_flows.publish.models import DEFAULT_GROUP, PublishedModel
from prefect_flows.publish.postgres.catalog import (
    CREATE_RECORDS,
    MAX_NAME_BYTES,
    RECORDS,
    SLOTS,
    PublishedState,
    create_schema,
    find_relation,
    own_schema,
    read_states,
    slot_schema,
    table,
)
from prefect_flows.publish.postgres.switch import (
    find_broken_dependents,
    find_missing_tables,
    lock_for_switch,
    switch,
)
from prefect_flows.publish.postgres.sync import copy_published_rows, count_changes

# The switch waits this long for each lock, and readers that come after it wait as long.
LOCK_TIMEOUT_SECONDS = 0.5
# Between attempts, readers that waited for the switch run.
PAUSE_SECONDS = 1.0
SWITCH_ATTEMPTS = 20
# How long the switch waits for transactions that cannot see the new rows.
SNAPSHOTS_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.2
MAX_LISTED_SESSIONS = 5
POSTGRES_18 = 180_000
# Autovacuum analyzes a table again after this share of its rows has changed.
ANALYZE_SHARE = 0.1

_LOCK_ERRORS = (errors.LockNotAvailable, errors.QueryCanceled, errors.DeadlockDetected)

Connect = Callable[[], AbstractContextManager[Any]]


class PostgresPublisher:
    """The published models of a Postgres target.

    Args:
        profile: the target's profile.
        connect: opens a psycopg2 connection as dbt does.
        models: all published models of the project.
    """

    def __init__(
        self, profile: Profile, connect: Connect, models: Sequence[PublishedModel]
    ) -> None:
        self._profile = profile
        self._target_schema = str(profile.output["schema"])
        self._connect = connect
        self._connection: Any = None
        self.models = list(models)

    @classmethod
    def from_records(cls, profile: Profile, connect: Connect) -> PostgresPublisher:
        """Open the publisher with the models that were published, without the dbt project."""
        publisher = cls(profile, connect, [])
        schema = own_schema(publisher._target_schema)
        with publisher._transaction() as cursor:
            if find_relation(cursor, schema, RECORDS) is None:
                return publisher
            cursor.execute(
                sql.SQL("select schema_name, relation_name from {} order by 1, 2").format(
                    table(schema, RECORDS)
                )
            )
            publisher.models = [
                PublishedModel(
                    unique_id=f"{schema}.{name}",
                    database=None,
                    schema=schema,
                    name=name,
                    group=DEFAULT_GROUP,
                    keeps_rows=False,
                    unique_key=(),
                )
                for schema, name in cursor.fetchall()
            ]
        return publisher

    def read_states(self) -> dict[str, PublishedState]:
        """Return id → what readers see of each model."""
        with self._transaction() as cursor:
            return read_states(cursor, self._target_schema, self.models)

    def get_schemas(self, built: Collection[str], run: str) -> dict[str, str]:
        """Return id → the schema in which dbt finds each model during a run.

        Models that the run builds are in their build slot; others where their published rows are.
        A model that was never published is where dbt has it.

        Args:
            built: ids of the models that the run builds.
            run: its id.
        """
        states = self.read_states()
        schemas = {}
        for model in self.models:
            state = states[model.unique_id]
            if model.unique_id in built and state.live_run != run:
                schemas[model.unique_id] = slot_schema(model.schema, state.build_slot)
            elif state.live_slot is not None:
                schemas[model.unique_id] = slot_schema(model.schema, state.live_slot)
        return schemas

    def check(self, built: Sequence[PublishedModel]) -> None:
        """Check names and privileges of the models to build, before anything is changed.

        Raises:
            PublishError: lists every fault.
        """
        schemas = {model.schema for model in built}
        own = own_schema(self._target_schema)
        faults = [
            f"the schema {name!r} has {len(name.encode())} bytes; Postgres allows {MAX_NAME_BYTES}"
            for name in (own, *(slot_schema(schema, SLOTS[0]) for schema in sorted(schemas)))
            if len(name.encode()) > MAX_NAME_BYTES
        ]
        with self._transaction() as cursor:
            for schema in sorted(
                {own}
                | schemas
                | {slot_schema(schema, slot) for schema in schemas for slot in SLOTS}
            ):
                faults += _check_schema(cursor, schema)
            states = read_states(cursor, self._target_schema, built)
            for model in built:
                parent = states[model.unique_id].parent
                if parent is not None and parent.kind in ("p", "f"):
                    faults.append(f"{model} is a {_KINDS[parent.kind]}, not a table or view")
                elif parent is not None and not parent.is_owned:
                    faults.append(f"{model} belongs to another role")
        if faults:
            raise PublishError(
                f"The marts cannot be published: {'; '.join(faults)}.",
                where=f"{self._profile.address} as {self._profile.output['user']}",
                fix="give the role these privileges (the owner runs: alter table … owner to, grant "
                "create on schema …, grant create on database …), or shorten the schema's name",
            )

    def prepare(
        self,
        built: Sequence[PublishedModel],
        executed: Collection[str],
        run: str,
        resumed_run: str | None,
        *,
        full_refresh: bool,
        log: Logger,
    ) -> dict[str, Any]:
        """Prepare the build slots of the models that dbt executes; see `Publisher.prepare`.

        Returns:
            A record: how the published rows were copied, and which leftovers were dropped.
        """
        with self.connected():
            copied: dict[str, list[str]] = {}
            with self._transaction() as cursor:
                self._create_schemas(cursor, built)
                if resumed_run is not None:
                    kept = [model for model in built if model.unique_id not in executed]
                    self._take_over(cursor, kept, run, resumed_run)
            removed = self._remove_leftovers()
            models = [model for model in built if model.unique_id in executed]
            kept = [model for model in models if model.keeps_rows and not full_refresh]
            self._prepare_rebuilt([model for model in models if model not in kept], run)
            for model in kept:
                copied.setdefault(self._copy_rows(model, run, log), []).append(str(model))
            return {"copied": copied, "removed": removed}

    def _prepare_rebuilt(self, models: Sequence[PublishedModel], run: str) -> None:
        """Prepare the build slots of models that dbt builds without their rows."""
        with self._transaction() as cursor:
            states = read_states(cursor, self._target_schema, models)
            for model in models:
                self._record(cursor, model, previous_run=None, build_run=run)
                if model.is_seed:
                    schema = slot_schema(model.schema, states[model.unique_id].build_slot)
                    cursor.execute(
                        sql.SQL("drop table if exists {} cascade").format(table(schema, model.name))
                    )

    def _copy_rows(self, model: PublishedModel, run: str, log: Logger) -> str:
        """Copy the published rows of a model into its build slot; return what was copied."""
        started = time.monotonic()
        with self._transaction() as cursor:
            # This locks the record: who changes rows by hand now waits until they are copied, and
            # the switch finds their change.
            self._record(cursor, model, previous_run=None, build_run=run)
            state = read_states(cursor, self._target_schema, [model])[model.unique_id]
            what = copy_published_rows(cursor, self._target_schema, model, state)
            if what == "all rows":
                self._record(cursor, model, is_edited=False)
                log.info(
                    "Copied all rows of %s in %.1f s; the next run copies only what changed.",
                    model,
                    time.monotonic() - started,
                )
            return what

    def switch(self, models: Sequence[PublishedModel], run: str, log: Logger) -> float:
        """Show readers the rows that this run built, of all models in one transaction.

        Returns:
            Seconds for which the locks were held.

        Raises:
            PublishError: a reader's object would break, or readers hold locks; `retryable` then.
        """
        with self.connected():
            with self._transaction() as cursor:
                states = read_states(cursor, self._target_schema, models)
                # An attempt whose answer was lost may have published them.
                models = [model for model in models if states[model.unique_id].live_run != run]
                self._check_unchanged(models, states, run)
                missing = find_missing_tables(cursor, models, states)
                broken = find_broken_dependents(cursor, models, states)
            if missing:
                raise PublishError(
                    f"dbt built no table {', '.join(missing)}. Nothing was published.",
                    where=self._profile.address,
                    fix="use a materialization that builds a table of the model's name, or set "
                    "`meta: {publish: false}`; then run again with --failed",
                )
            if broken:
                raise PublishError(
                    f"Publishing would break objects of readers: {'; '.join(broken)}. "
                    "Nothing was published.",
                    where=self._profile.address,
                    fix="change or drop these objects, or restore the column; then run again with "
                    "--failed",
                )
            return self._switch(models, states, run, log) if models else 0.0

    def _check_unchanged(
        self,
        models: Sequence[PublishedModel],
        states: Mapping[str, PublishedState],
        run: str | None,
    ) -> None:
        """Check that nobody changed rows by hand that the run has built new ones from.

        Raises:
            PublishError: somebody did.
        """
        edited = [
            str(model)
            for model in models
            if (
                states[model.unique_id].is_edited
                if run is None
                else states[model.unique_id].build_run not in (run, *_unknown_run(model))
            )
        ]
        if edited:
            when = "by hand" if run is None else "while the run built new ones from them"
            raise PublishError(
                f"The rows of {', '.join(edited)} were changed {when}. Nothing was published.",
                where=self._profile.address,
                fix="run again: the next run starts from the changed rows",
            )

    def show_previous(self, log: Logger) -> list[PublishedModel]:
        """Undo the last publication; return its models.

        Models that this publication showed for the first time stay as they are.

        Raises:
            PublishError: a model has no complete rows of an earlier run.
        """
        states = self.read_states()
        last = max(
            (s.live_since for s in states.values() if s.live_since is not None), default=None
        )
        published = [
            model
            for model in self.models
            if last is not None and states[model.unique_id].live_since == last
        ]
        self._check_unchanged(published, states, None)
        models = [m for m in published if states[m.unique_id].previous_run is not None]
        overwritten = [
            str(model)
            for model in published
            if states[model.unique_id].previous_run is None
            and states[model.unique_id].build_run is not None
        ]
        if overwritten or not models:
            why = f"a later run has built over {', '.join(overwritten)}"
            raise PublishError(
                "There is no previous version: "
                f"{why if overwritten else 'nothing was published twice'}.",
                where=self._profile.address,
                fix="correct the model and run the pipeline",
            )
        with self._transaction() as cursor:
            broken = find_broken_dependents(cursor, models, states)
        if broken:
            raise PublishError(
                f"The previous version would break objects of readers: {'; '.join(broken)}.",
                where=self._profile.address,
                fix="change or drop these objects, then repeat the command",
            )
        self._switch(models, states, None, log)
        return models

    def _switch(
        self,
        models: Sequence[PublishedModel],
        states: Mapping[str, PublishedState],
        run: str | None,
        log: Logger,
    ) -> float:
        """Switch with a lock timeout; `run` is None for the way back."""
        self._wait_for_snapshots(log)
        for attempt in range(1, SWITCH_ATTEMPTS + 1):
            try:
                return self._switch_once(models, states, run)
            except PublishError as error:
                if not isinstance(error.__cause__, _LOCK_ERRORS):
                    raise
                blockers = self._find_blockers(models)
                if attempt == SWITCH_ATTEMPTS:
                    raise PublishError(
                        f"Readers hold locks on the marts: {blockers}. Nothing was published.",
                        where=self._profile.address,
                        fix="wait for these sessions or end them: select pg_terminate_backend(PID)",
                        retryable=True,
                    ) from None
                log.info("Readers hold locks on the marts: %s. Waiting.", blockers)
                time.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 # jitter
        raise AssertionError

    def _switch_once(
        self,
        models: Sequence[PublishedModel],
        states: Mapping[str, PublishedState],
        run: str | None,
    ) -> float:
        now = datetime.now(UTC)
        with self._transaction() as cursor:
            unanalyzed = {
                model: self._count_unanalyzed(cursor, model, states[model.unique_id])
                for model in models
            }
            for schema in sorted({model.schema for model in models}):
                create_schema(cursor, schema)
            lock_for_switch(cursor, models, states, lock_seconds=LOCK_TIMEOUT_SECONDS)
            started = time.monotonic()
            # What somebody changed by hand while this transaction waited is committed now.
            self._check_unchanged(models, read_states(cursor, self._target_schema, models), run)
            switch(cursor, self._target_schema, models, states)
            for model in models:
                state = states[model.unique_id]
                self._record(
                    cursor,
                    model,
                    live_run=run if run is not None else state.previous_run,
                    live_since=now,
                    previous_run=state.live_run,
                    build_run=state.live_run,
                    is_edited=False,
                    unanalyzed_rows=unanalyzed[model],
                )
        seconds = time.monotonic() - started
        self._analyze([model for model in models if unanalyzed[model] is None])
        return seconds

    def _count_unanalyzed(
        self, cursor: Any, model: PublishedModel, state: PublishedState
    ) -> int | None:
        """Return how many rows differ from those that the parent's statistics are of.

        None means that it has to be analyzed: they are too many, or nobody counted them.
        """
        if state.unanalyzed_rows is None:
            return None
        changed = count_changes(cursor, self._target_schema, model, state.build_slot)
        if changed is None:
            return None
        cursor.execute(
            "select reltuples from pg_class where oid = %s::regclass",
            (table(slot_schema(model.schema, state.build_slot), model.name).as_string(cursor),),
        )
        ((rows,),) = cursor.fetchall()
        unanalyzed = state.unanalyzed_rows + changed
        return unanalyzed if unanalyzed < ANALYZE_SHARE * rows else None

    def _analyze(self, models: Sequence[PublishedModel]) -> None:
        """Analyze the parents, whose statistics the planner uses for queries of readers.

        Autovacuum does not do it: it analyzes only the slots' tables.
        """
        if not models:
            return
        with self._transaction() as cursor:
            # Since Postgres 18, the child would be analyzed too.
            only = "only " if cursor.connection.server_version >= POSTGRES_18 else ""
            for model in models:
                cursor.execute(
                    sql.SQL(f"analyze {only}{{}}").format(table(model.schema, model.name))
                )
            # Who changes rows by hand now holds the record. The next run analyzes again then.
            cursor.execute(
                sql.SQL(
                    "update {0} set unanalyzed_rows = 0 where (schema_name, relation_name) in"
                    " (select schema_name, relation_name from {0}"
                    " where (schema_name, relation_name) in {1} for update skip locked)"
                ).format(
                    table(own_schema(self._target_schema), RECORDS),
                    sql.Literal(tuple(model.key for model in models)),
                )
            )

    def _wait_for_snapshots(self, log: Logger) -> None:
        """Wait for transactions whose snapshot may be older than the rows to publish.

        A transaction with REPEATABLE READ or SERIALIZABLE cannot see rows that were committed after
        its first statement. If it read a model for the first time after the switch, it would find
        no rows, or those of the run before the last one. One that has read a model already holds a
        lock, for which the switch waits too. A role without `pg_read_all_stats` sees only its own
        sessions here.
        """
        with self._transaction() as cursor:
            waiting = _find_old_snapshots(cursor, None)
        if not waiting:
            return
        log.info("Transactions of readers began before the new rows: %s. Waiting.", _list(waiting))
        deadline = time.monotonic() + SNAPSHOTS_TIMEOUT_SECONDS
        while waiting and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            with self._transaction() as cursor:
                waiting = _find_old_snapshots(cursor, list(waiting))
        if waiting:
            log.warning(
                "Transactions of readers began before the new rows and still run: %s. A model that "
                "such a transaction reads now for the first time has no rows, or old ones.",
                _list(waiting),
            )

    def _find_blockers(self, models: Sequence[PublishedModel]) -> str:
        with self._transaction() as cursor:
            cursor.execute(
                "select distinct a.pid, a.usename::text, a.application_name, a.state, a.xact_start"
                " from pg_locks as l join pg_stat_activity as a on a.pid = l.pid"
                " join pg_class as c on c.oid = l.relation"
                " join pg_namespace as n on n.oid = c.relnamespace"
                " where (n.nspname, c.relname) in %s and l.granted and a.pid <> pg_backend_pid()"
                " and a.datname = current_database()"
                " order by a.xact_start limit 5",
                (
                    tuple(
                        (schema, model.name)
                        for model in models
                        for schema in (
                            model.schema,
                            *(slot_schema(model.schema, slot) for slot in SLOTS),
                        )
                    ),
                ),
            )
            found = [
                f"process {pid} of {user}{f' ({name})' if name else ''}"
                f"{f', {state}' if state else ''}"
                f"{f' since {since:%H:%M:%S}' if since else ''}"
                for pid, user, name, state, since in cursor.fetchall()
            ]
        return "; ".join(found) or "sessions that have ended since"

    def _create_schemas(self, cursor: Any, built: Sequence[PublishedModel]) -> None:
        schema = own_schema(self._target_schema)
        for name in sorted({schema, *(slot_schema(m.schema, s) for m in built for s in SLOTS)}):
            create_schema(cursor, name)
        cursor.execute(sql.SQL(CREATE_RECORDS).format(records=table(schema, RECORDS)))

    def _take_over(
        self, cursor: Any, models: Sequence[PublishedModel], run: str, resumed_run: str
    ) -> None:
        """Record that the models that a run built belong to the run that resumes it.

        A model that is built again is not among them: readers go on seeing the resumed run's rows.
        """
        if not models:
            return
        records = table(own_schema(self._target_schema), RECORDS)
        keys = sql.Literal(tuple(model.key for model in models))
        for column in ("build_run", "live_run"):
            cursor.execute(
                sql.SQL(
                    "update {records} set {column} = {run} where {column} = {resumed_run}"
                    " and (schema_name, relation_name) in {keys}"
                ).format(
                    records=records,
                    column=sql.Identifier(column),
                    run=sql.Literal(run),
                    resumed_run=sql.Literal(resumed_run),
                    keys=keys,
                )
            )

    def _record(self, cursor: Any, model: PublishedModel, **values: Any) -> None:
        columns = sql.SQL(", ").join(map(sql.Identifier, values))
        updates = sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in values
        )
        cursor.execute(
            sql.SQL(
                "insert into {} (schema_name, relation_name, {}) values {}"
                " on conflict (schema_name, relation_name) do update set {}"
            ).format(
                table(own_schema(self._target_schema), RECORDS),
                columns,
                sql.Literal((model.schema, model.name, *values.values())),
                updates,
            )
        )

    def _remove_leftovers(self) -> list[str]:
        """Drop tables that killed runs or removed models left in the slots; return their names."""
        known = {model.key for model in self.models}
        with self._transaction() as cursor:
            cursor.execute(
                sql.SQL("select schema_name, relation_name from {}").format(
                    table(own_schema(self._target_schema), RECORDS)
                )
            )
            recorded = {(schema, name) for schema, name in cursor.fetchall()}
            leftovers: list[tuple[str, str, str]] = []
            for schema, name in sorted(recorded):
                for slot in SLOTS:
                    # dbt shortens the name like this.
                    names = [
                        name[: MAX_NAME_BYTES - len(suffix)] + suffix
                        for suffix in ("__dbt_tmp", "__dbt_backup")
                    ]
                    if (schema, name) not in known:
                        names.append(name)
                    cursor.execute(
                        "select n.nspname::text, c.relname::text,"
                        " case c.relkind when 'v' then 'view' else 'table' end"
                        " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
                        " where n.nspname = %s and c.relname = any(%s) and c.relkind in ('r', 'v')"
                        " and not exists (select from pg_inherits where inhrelid = c.oid)",
                        (slot_schema(schema, slot), names),
                    )
                    leftovers += cursor.fetchall()
            for schema, name, kind in leftovers:
                cursor.execute(sql.SQL(f"drop {kind} {{}} cascade").format(table(schema, name)))
        return [f"{schema}.{name}" for schema, name, _ in leftovers]

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Use one connection for all transactions while the context is open."""
        if self._connection is not None:
            yield
            return
        with self._connect() as connection:
            self._connection = connection
            try:
                yield
            finally:
                self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Yield a cursor; commit at the end, roll back after an error.

        Raises:
            PublishError: Postgres refuses a statement; `retryable` if that is transient.
        """
        with nullcontext(self._connection) if self._connection else self._connect() as connection:
            try:
                with connection, connection.cursor() as cursor:
                    yield cursor
            except psycopg2.Error as error:
                raise PublishError(
                    f"Postgres refuses to publish: {' '.join(str(error).split())}",
                    where=self._profile.address,
                    fix="correct what Postgres says, then run again with --failed",
                    retryable=classify(error) is FailureClass.TRANSIENT,
                ) from error


# Process and start of its transaction → text.
_Sessions = dict[tuple[int, datetime], str]


def _find_old_snapshots(cursor: Any, among: Sequence[tuple[int, datetime]] | None) -> _Sessions:
    """Return the transactions of several statements that hold a snapshot.

    Args:
        cursor: a cursor.
        among: look only at these; None for all.
    """
    cursor.execute(
        "select pid, xact_start, usename::text, application_name, state from pg_stat_activity"
        " where datname = current_database() and backend_type = 'client backend'"
        " and pid <> pg_backend_pid() and backend_xmin is not null"
        " and (state <> 'active' or query_start > xact_start)"
        " and (%s or (pid, xact_start) in %s) order by xact_start",
        (among is None, tuple(among or [(0, datetime.now(UTC))])),
    )
    return {
        (pid, since): f"process {pid} of {user}{f' ({name})' if name else ''}, {state} since "
        f"{since:%H:%M:%S}"
        for pid, since, user, name, state in cursor.fetchall()
    }


def _list(sessions: _Sessions) -> str:
    return "; ".join(list(sessions.values())[:MAX_LISTED_SESSIONS])


def _unknown_run(model: PublishedModel) -> tuple[None, ...]:
    """Return None if a change by hand does not matter: the run has not read the old rows."""
    return () if model.keeps_rows else (None,)


_KINDS = {"p": "partitioned table", "f": "foreign table"}


def _check_schema(cursor: Any, schema: str) -> list[str]:
    """Return faults if the role may not create tables in a schema, or the schema itself."""
    cursor.execute(
        "select has_schema_privilege(oid, 'CREATE') and has_schema_privilege(oid, 'USAGE'),"
        " nspowner::regrole::text from pg_namespace where nspname = %s",
        (schema,),
    )
    row = cursor.fetchone()
    if row is not None:
        return [] if row[0] else [f"no privilege CREATE on the schema {schema} of {row[1]}"]
    cursor.execute(
        "select has_database_privilege(current_database(), 'CREATE'), current_database()::text"
    )
    allowed, database = cursor.fetchone()
    return [] if allowed else [f"no privilege CREATE on {database}, for the schema {schema}"]
