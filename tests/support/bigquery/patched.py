"""bqemulator 1.4.0 with what it lacks of BigQuery; started by `emulator.py` in its own environment.

Each patch is a function that says what BigQuery does and the emulator does not. A value-level test
of each stands in `test_emulator.py`. When a newer version passes that test without the patch, the
patch goes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bqemulator.api.routes import datasets, jobs, tables, upload
from bqemulator.catalog import ddl_sync
from bqemulator.catalog.models import Clustering, TableMeta, TimePartitioning
from bqemulator.cli import main
from bqemulator.domain.errors import AlreadyExistsError, DomainError, InvalidQueryError
from bqemulator.jobs import executor
from bqemulator.scripting import interpreter
from bqemulator.scripting.ast import SetStmt
from bqemulator.scripting.parser import Parser
from bqemulator.sql.rewriter import aggregate_variants, create_table_schema_ctas
from bqemulator.sql.rules import TranslationRule, get_all_rules, register
from bqemulator.sql.translator import SQLTranslator
from bqemulator.versioning.clone import CloneManager
from bqemulator.versioning.snapshots import SnapshotManager
from fastapi import Depends, Request
from sqlglot import exp, parse_one
from sqlglot.errors import ParseError


def contracts_of_dbt() -> None:
    """A table with declared columns may be made of a query in parentheses, as dbt writes it.

    The emulator casts the first SELECT to the declared columns, and looks for it beneath unions
    only.
    """
    first_select = create_table_schema_ctas._first_select

    def first_select_in_parentheses(body: exp.Expression | None) -> exp.Select | None:
        while isinstance(body, exp.Subquery):
            body = body.this
        return first_select(body)

    create_table_schema_ctas._first_select = first_select_in_parentheses


def loads() -> None:
    """A load job takes gzipped JSON, and puts Parquet's columns where their names stand."""

    def load_json(path: str, target: str, context: Any) -> None:
        with Path(path).open("rb") as file:
            gzipped = file.read(2) == b"\x1f\x8b"
        compression = ", COMPRESSION GZIP" if gzipped else ""
        context.engine.execute(f"COPY {target} FROM ? (FORMAT JSON{compression})", [path])

    def load_parquet(path: str, target: str, context: Any) -> None:
        context.engine.execute(
            f"INSERT INTO {target} BY NAME SELECT * FROM read_parquet(?)", [path]
        )

    executor._LOAD_FORMAT_HANDLERS |= {
        "NEWLINE_DELIMITED_JSON": load_json,
        "PARQUET": load_parquet,
    }


def time_zones() -> None:
    """A time zone may be any expression, not only a literal: `datetime(instant, zone_column)`.

    DuckDB's function `timezone` does both directions, by the type of its second argument. And
    FORMAT_TIMESTAMP with the zone 'UTC' is what it is without one, where the emulator calls Python
    for each row: 45 s for 336,776 of them.
    """

    def rewrite(node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.Datetime | exp.Timestamp):
            zone = node.args.get("expression") or node.args.get("zone")
            if isinstance(zone, exp.Column | exp.Dot):
                return exp.Anonymous(this="TIMEZONE", expressions=[zone, node.this])
        if isinstance(node, exp.TimeToStr):
            zone = node.args.get("zone")
            if isinstance(zone, exp.Literal) and zone.this == "UTC":
                node.set("zone", None)
        return node

    _before_translation(("DATETIME(", "TIMESTAMP("), rewrite)


def money() -> None:
    """NUMERIC has 38 digits, 9 of them after the point, and not DuckDB's 18 and 3.

    Source: https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#decimal_types.
    """

    @register
    class Numeric(TranslationRule):
        name = "NUMERIC_38_9"

        def applies_to(self, node: exp.Expression) -> bool:
            # What sqlglot reads where DuckDB's DECIMAL has no numbers. An explicit NUMERIC(18, 3)
            # cannot be told apart, and is widened too.
            return isinstance(node, exp.DataType) and node.sql("duckdb") == "DECIMAL(18, 3)"

        def rewrite(self, _: exp.Expression) -> exp.Expression:
            return exp.DataType.build("DECIMAL(38, 9)", dialect="duckdb")

    executor._translator._rules = get_all_rules()


def partitions_to_replace() -> None:
    """Dbt's `insert_overwrite` gathers them with two forms that the emulator does not know.

    ARRAY_AGG(DISTINCT x IGNORE NULLS), of which the emulator takes `DISTINCT x` for a value; and
    SET (v) = (SELECT AS STRUCT x), which sets a variable to a row's only field.
    """
    filter_target = aggregate_variants._filter_target

    def value_behind_distinct(operand: exp.Expression) -> exp.Expression:
        target = filter_target(operand)
        return target.expressions[0] if isinstance(target, exp.Distinct) else target

    aggregate_variants._filter_target = value_behind_distinct

    parse_set = Parser._parse_set

    def fields_of_a_struct(self: Parser) -> SetStmt:
        statement = parse_set(self)
        fields = re.sub(
            r"^\(\s*select\s+as\s+struct\b", "(select", statement.source_expr, flags=re.IGNORECASE
        )
        return replace(statement, source_expr=fields)

    Parser._parse_set = fields_of_a_struct


def each_job_once() -> None:
    """A job whose id is taken is refused, so that a request whose answer was lost can be repeated.

    Google's client then asks for the job that there is. The emulator would run it again.
    """
    handle_query_job = jobs._handle_query_job

    async def handle_new_query_job(
        project: str, job: str, *arguments: Any, ctx: Any, **options: Any
    ) -> Any:
        if ctx.catalog.get_job(project, job) is not None:
            raise AlreadyExistsError(f"Already Exists: Job {project}:US.{job}")
        return await handle_query_job(project, job, *arguments, ctx=ctx, **options)

    jobs._handle_query_job = handle_new_query_job


def merges() -> None:
    """A MERGE may ask whether a value is in an array: `when … and x in unnest(array) then …`.

    DuckDB takes no such subquery there, which is what the emulator makes of it. dbt asks it of the
    partitions that a microbatch replaces.
    """

    def rewrite(node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.In) and node.args.get("unnest") and node.find_ancestor(exp.Merge):
            (array,) = node.args["unnest"].expressions
            return exp.Anonymous(this="LIST_CONTAINS", expressions=[array, node.this])
        return node

    _before_translation(("IN UNNEST(",), rewrite)


def layouts() -> None:
    """A table that a statement makes is known by what it is clustered by, and partitioned.

    The emulator keeps partitions by a bare column only, and as those of a day; of clusters made by
    a statement it keeps nothing.
    """
    sync = ddl_sync.sync_created_table

    def sync_with_layout(bq_sql: str, project_id: str, ctx: Any) -> None:
        sync(bq_sql, project_id, ctx)
        target = ddl_sync._detect_plain_create_table(bq_sql)
        made = target and ctx.catalog.get_table(*ddl_sync._split_target(target, project_id))
        if not made:
            return
        layout: dict[str, Any] = {}
        for part in target.find_ancestor(exp.Create).find_all(
            exp.PartitionedByProperty, exp.ClusterProperty
        ):
            if isinstance(part, exp.ClusterProperty):
                columns = tuple(column.name for column in part.expressions)
                layout["clustering"] = Clustering(fields=columns)
            elif isinstance(part.this, exp.TimestampTrunc | exp.DatetimeTrunc | exp.DateTrunc):
                layout["time_partitioning"] = TimePartitioning(
                    type=part.this.text("unit").upper(), field=part.this.this.name
                )
        if layout:
            ctx.catalog.update_table(made.model_copy(update=layout))

    executor.sync_created_table = interpreter.sync_created_table = sync_with_layout


def definitions() -> None:
    """A view tells its statement to who asks for the table."""
    to_rest = tables._table_to_rest

    def to_rest_with_statement(table: TableMeta) -> dict[str, Any]:
        body = to_rest(table)
        if table.view_query is not None:
            body["view"] = {"query": table.view_query, "useLegacySql": table.use_legacy_sql}
        return body

    tables._table_to_rest = to_rest_with_statement


def copies() -> None:
    """A copy job replaces rows and columns at once, leaves it the same table, and runs once.

    The emulator fails where the columns differ, and runs a job again whose id is taken. BigQuery
    copies into no view, and into no table with other partitions.
    Source: https://cloud.google.com/bigquery/docs/managing-partitioned-tables.
    """
    run_job, copy = jobs.execute_copy_job, executor._copy_table_into_destination

    async def run_new_job(project: str, job: str, config: Any, ctx: Any) -> Any:
        if ctx.catalog.get_job(project, job) is not None:
            raise AlreadyExistsError(f"Already Exists: Job {project}:US.{job}")
        return await run_job(project, job, config, ctx)

    async def replace_table(*, write_disposition: str, ctx: Any, **places: Any) -> None:
        source = [places[f"src_{part}"] for part in ("proj", "ds", "table_id")]
        target = [places[f"dst_{part}"] for part in ("proj", "ds", "table_id")]
        new, old = ctx.catalog.get_table(*source), ctx.catalog.get_table(*target)
        if write_disposition != "WRITE_TRUNCATE" or new is None or old is None:
            await copy(write_disposition=write_disposition, ctx=ctx, **places)
            return
        if old.table_type not in ("TABLE", "CLONE"):
            raise InvalidQueryError(f"{old.table_id} is not a table")
        layouts = [(table.time_partitioning, table.range_partitioning) for table in (new, old)]
        if layouts[0] != layouts[1]:
            raise InvalidQueryError(f"Incompatible partitioning spec of {old.table_id}")
        names = [executor.quoted_table_ref(*place) for place in (target, source)]
        async with ctx.engine.write_lock():
            ctx.engine.execute(f"CREATE OR REPLACE TABLE {names[0]} AS SELECT * FROM {names[1]}")
            changes = {"schema_": new.schema_, "num_rows": new.num_rows}
            ctx.catalog.update_table(old.model_copy(update=changes))
            ctx.snapshots.record_change(*target)

    jobs.execute_copy_job = run_new_job
    executor._copy_table_into_destination = replace_table


def clones() -> None:
    """Clones of clones are refused from the fourth on.

    Source: https://cloud.google.com/bigquery/quotas#table_clone_limits.
    """
    create = CloneManager.create

    async def create_at_depth(self: CloneManager, *places: str) -> TableMeta:
        depth, source = 0, self._ctx.catalog.get_table(*places[3:])
        while source is not None and source.base_table is not None:
            depth += 1
            source = self._ctx.catalog.get_table(*source.base_table.split("."))
        if depth >= 3:
            raise InvalidQueryError("A chain of clones has at most 3 of them")
        return await create(self, *places)

    CloneManager.create = create_at_depth


def modifications() -> None:
    """A table tells when its rows were changed last."""
    record_change = SnapshotManager.record_change

    def record_time(self: SnapshotManager, *place: str) -> Any:
        table = self._catalog.get_table(*place)
        if table is not None:
            changes = {"last_modified_time": datetime.now(UTC)}
            self._catalog.update_table(table.model_copy(update=changes))
        return record_change(self, *place)

    SnapshotManager.record_change = record_time


def dropped_views() -> None:
    """A view is deleted as a table is, by the API's `tables.delete`; DuckDB wants `DROP VIEW`."""

    async def drop_view(project_id: str, dataset_id: str, table_id: str, ctx: tables._Ctx) -> None:
        table = ctx.catalog.get_table(project_id, dataset_id, table_id)
        if table is not None and table.table_type == "VIEW":
            async with ctx.engine.write_lock():
                name = executor.quoted_table_ref(project_id, dataset_id, table_id)
                ctx.engine.execute(f"DROP VIEW IF EXISTS {name}")

    for route in tables.router.routes:
        if "DELETE" in route.methods:
            route.dependencies.append(Depends(drop_view))


def access() -> None:
    """Each table has an access policy, as long as it is not deleted."""
    policies: dict[tuple[str, str, str], Any] = {}
    path = "/projects/{project_id}/datasets/{dataset_id}/tables/{table_id}"

    @tables.router.post(f"{path}:getIamPolicy")
    async def get_policy(project_id: str, dataset_id: str, table_id: str) -> Any:
        return policies.get((project_id, dataset_id, table_id), {"etag": "none"})

    @tables.router.post(f"{path}:setIamPolicy")
    async def set_policy(project_id: str, dataset_id: str, table_id: str, request: Request) -> Any:
        policy = (await request.json())["policy"]
        policies[project_id, dataset_id, table_id] = policy
        return policy

    async def forget_policy(project_id: str, dataset_id: str, table_id: str) -> None:
        policies.pop((project_id, dataset_id, table_id), None)

    for route in tables.router.routes:
        if "DELETE" in route.methods:
            route.dependencies.append(Depends(forget_policy))


def uploads() -> None:
    """A small file is uploaded in one request, with the type `*/*` that Google's client gives."""
    is_permitted = upload._is_permitted_media_type
    upload._is_permitted_media_type = lambda kind: kind == "*/*" or is_permitted(kind)


def preconditions() -> None:
    """A change of a dataset that names an old state of it (`If-Match`) is refused.

    The emulator gives etags, and looks at none that comes back.
    """

    class StaleError(DomainError):
        http_status = 412
        bq_reason = "conditionNotMet"

    async def see_that_it_is_the_last(
        project_id: str, dataset_id: str, request: Request, ctx: datasets._Ctx
    ) -> None:
        # Read first, so that nothing comes between this look and the change.
        await request.json()
        wanted = request.headers.get("if-match")
        existing = ctx.catalog.get_dataset(project_id, dataset_id)
        if wanted is not None and existing is not None and wanted != existing.etag:
            raise StaleError("Precondition Failed")

    for route in datasets.router.routes:
        if route.methods & {"PATCH", "PUT"}:
            route.dependencies.append(Depends(see_that_it_is_the_last))


def prices() -> None:
    """A dry run says how many bytes a query would read: here a million for each table in it.

    The emulator knows no costs and says none. What BigQuery says depends on the columns.
    """
    dry_run = jobs._build_dry_run_query_response

    async def priced(*, bq_sql: str, **options: Any) -> dict[str, Any]:
        answer = await dry_run(bq_sql=bq_sql, **options)
        tables_read = len(list(parse_one(bq_sql, read="bigquery").find_all(exp.Table)))
        for statistics in (answer["statistics"], answer["statistics"]["query"]):
            statistics["totalBytesProcessed"] = str(1_000_000 * tables_read)
        return answer

    jobs._build_dry_run_query_response = priced


def _before_translation(
    words: tuple[str, ...], rewrite: Callable[[exp.Expression], exp.Expression]
) -> None:
    """Rewrite statements that hold one of the words, while they are BigQuery's."""
    translate = SQLTranslator.translate

    def rewriting(self: SQLTranslator, bq_sql: str, **options: Any) -> Any:
        upper = bq_sql.upper()
        if any(word in upper for word in words):
            try:
                tree = parse_one(bq_sql, read="bigquery")
            except ParseError:
                return translate(self, bq_sql, **options)
            bq_sql = tree.transform(rewrite).sql(dialect="bigquery")
        return translate(self, bq_sql, **options)

    SQLTranslator.translate = rewriting


if __name__ == "__main__":
    contracts_of_dbt()
    loads()
    time_zones()
    money()
    partitions_to_replace()
    merges()
    layouts()
    definitions()
    each_job_once()
    copies()
    clones()
    modifications()
    dropped_views()
    access()
    uploads()
    preconditions()
    prices()
    sys.exit(main())
