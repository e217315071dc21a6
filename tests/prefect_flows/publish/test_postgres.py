"""Publishing on Postgres, on tables made by hand: copies of rows, the switch, the way back.

The pipeline is not involved; `test_publish_run.py` runs it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg2
import pytest

from infrastructure.local import postgres
from prefect_flows.core.errors import PublishError
from prefect_flows.core.profiles import Profile
from prefect_flows.publish.models import PublishedModel
from prefect_flows.publish.postgres import switch as switching
from prefect_flows.publish.postgres import warehouse as publishing
from prefect_flows.publish.postgres.catalog import PublishedState
from prefect_flows.publish.postgres.warehouse import PostgresPublisher
from tests.support.embedded_postgres import Warehouse, empty_database, on
from tests.support.project import PATIENCE, until

LOG = logging.getLogger("test")
REFUSED = psycopg2.errors.RaiseException


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Postgres]:
    folder = tmp_path_factory.mktemp("postgres")
    try:
        server = postgres.start(folder)
        on(server, "postgres").query("alter system set fsync = off")
        on(server, "postgres").query("select pg_reload_conf()")
        yield server
    finally:
        postgres.stop(folder)


@pytest.fixture
def marts(server: postgres.Postgres) -> Iterator[Marts]:
    with empty_database(server) as warehouse:
        marts = Marts(warehouse)
        yield marts
        if marts.session is not None:
            marts.session.close()


@dataclass
class Marts:
    """A target that publishes, and runs on it whose SQL is written by hand."""

    warehouse: Warehouse
    target_schema: str = "embedded"
    user: str = "postgres"
    session: Any = None

    def open(self, user: str | None = None) -> Any:
        output = self.warehouse.profile.output
        return psycopg2.connect(
            host=output["host"],
            port=output["port"],
            user=user or self.user,
            dbname=output["dbname"],
        )

    @contextmanager
    def connect(self) -> Iterator[Any]:
        with closing(self.open()) as connection:
            yield connection

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        if self.session is None:
            self.session = self.open()
            self.session.autocommit = True
        with self.session.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def publisher(self, *models: PublishedModel) -> PostgresPublisher:
        output = self.warehouse.profile.output | {"schema": self.target_schema, "user": self.user}
        profile = Profile.from_output("millrace", "embedded", output)
        return PostgresPublisher(profile, self.connect, models)

    def state(self, model: PublishedModel) -> PublishedState:
        return self.publisher(model).read_states()[model.unique_id]

    def build(
        self,
        run: str,
        models: Mapping[PublishedModel, str],
        *,
        done: Sequence[PublishedModel] = (),
        resumes: str | None = None,
        full_refresh: bool = False,
    ) -> dict[str, Any]:
        """Prepare a run and build its models; `{this}` in the SQL is where dbt would find it."""
        every = [*done, *models]
        publisher = self.publisher(*every)
        publisher.check(every)
        record = publisher.prepare(
            every, {m.unique_id for m in models}, run, resumes, full_refresh=full_refresh, log=LOG
        )
        schemas = publisher.get_schemas({m.unique_id for m in every}, run)
        for model, sql in models.items():
            if sql:
                this = f"{_quote(schemas[model.unique_id])}.{_quote(model.name)}"
                self.query(sql.replace("{this}", this))
        return record

    def switch(self, run: str, *models: PublishedModel, log: logging.Logger = LOG) -> float:
        return self.publisher(*models).switch(models, run, log)

    def run(self, run: str, models: Mapping[PublishedModel, str], **options: Any) -> dict[str, Any]:
        """Build models and publish them."""
        record = self.build(run, models, **options)
        self.switch(run, *models, *options.get("done", ()))
        return record

    def read(self, model: PublishedModel, columns: str = "*") -> list[tuple[Any, ...]]:
        """The rows that readers see."""
        return self.query(
            f"select {columns} from {_quote(model.schema)}.{_quote(model.name)} order by 1"
        )

    def difference(self, model: PublishedModel) -> int:
        """How many rows the build slot and the live one do not have in common."""
        state = self.state(model)
        live, build = (
            f"{_quote(f'{model.schema}__{slot}')}.{_quote(model.name)}"
            for slot in (state.live_slot, state.build_slot)
        )
        # By name, and as text: the order of the columns may differ.
        [(columns,)] = self.query(
            "select string_agg(quote_ident(attname), ', ' order by attname) from pg_attribute"
            f" where attrelid = '{live}'::regclass and attnum > 0 and not attisdropped"
        )
        [(count,)] = self.query(
            f"select count(*) from ((select {columns} from {live} except all select {columns} from"
            f" {build}) union all (select {columns} from {build} except all select {columns} from"
            f" {live})) as difference"
        )
        return int(count)


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def rebuilt(name: str, schema: str = "marts") -> PublishedModel:
    return PublishedModel(f"model.p.{name}", None, schema, name, "default", False, ())


def incremental(name: str, *keys: str) -> PublishedModel:
    return PublishedModel(f"model.p.{name}", None, "marts", name, "default", True, keys)


def create(select: str) -> str:
    """What dbt's table materialization does."""
    return f"drop table if exists {{this}} cascade; create table {{this}} as {select}"


DIM, FACT = rebuilt("dim"), incremental("fact", "id")


# What readers see, by run.


def test_readers_see_a_model_after_the_switch_and_keep_their_objects(marts: Marts) -> None:
    assert marts.state(DIM) == PublishedState()

    marts.build("r1", {DIM: create("select 1 as id")})
    assert marts.state(DIM).parent is None
    assert marts.state(DIM).build_run == "r1"

    marts.switch("r1", DIM)
    assert marts.read(DIM) == [(1,)]
    state = marts.state(DIM)
    assert (state.live_slot, state.build_slot) == ("a", "b")
    assert (state.live_run, state.previous_run, state.build_run) == ("r1", None, None)

    marts.query("create view public.reader as select id from marts.dim")
    marts.build("r2", {DIM: create("select 2 as id")})
    assert marts.read(DIM) == [(1,)]
    marts.switch("r2", DIM)
    assert marts.read(DIM) == marts.query("select * from public.reader") == [(2,)]
    state = marts.state(DIM)
    assert (state.live_slot, state.live_run, state.previous_run) == ("b", "r2", "r1")

    marts.run("r3", {DIM: create("select 3 as id")})
    assert marts.query("select * from public.reader") == [(3,)]
    assert marts.state(DIM).live_slot == "a"


def test_a_switch_whose_answer_was_lost_is_not_repeated(marts: Marts) -> None:
    marts.run("r1", {DIM: create("select 1 as id")})
    marts.run("r2", {DIM: create("select 2 as id")})
    before = marts.state(DIM)

    assert marts.switch("r2", DIM) == 0.0

    assert marts.state(DIM) == before
    assert marts.read(DIM) == [(2,)]


def test_all_models_change_in_one_transaction(marts: Marts) -> None:
    other = rebuilt("other")
    marts.run("r1", {DIM: create("select 1 as run"), other: create("select 1 as run")})
    marts.build("r2", {DIM: create("select 2 as run"), other: create("select 2 as run")})
    marts.query("drop table marts__b.other")

    with pytest.raises(PublishError, match=r"dbt built no table marts__b\.other"):
        marts.switch("r2", DIM, other)

    assert marts.read(DIM) == marts.read(other) == [(1,)]
    assert marts.state(DIM).live_run == "r1"


def test_a_resumed_run_keeps_what_was_built_and_builds_the_rest_out_of_sight(marts: Marts) -> None:
    other = rebuilt("other")
    marts.run("r1", {DIM: create("select 1 as run"), other: create("select 1 as run")})
    marts.build("r2", {DIM: create("select 2 as run"), other: ""})
    # Only one of two groups was published; then the code of its model changed.
    marts.switch("r2", DIM)

    marts.build("r3", {DIM: create("select 3 as run")}, done=[other], resumes="r2")
    assert marts.read(DIM) == [(2,)], "readers see no row of a model whose tests are to come"
    assert marts.query("select run from marts__a.dim") == [(3,)]

    marts.query("create table marts__b.other as select 3 as run")
    marts.switch("r3", DIM, other)
    assert marts.read(DIM) == marts.read(other) == [(3,)]


def test_a_resumed_run_does_not_publish_twice(marts: Marts) -> None:
    marts.run("r1", {DIM: create("select 1 as id")})
    marts.run("r2", {DIM: create("select 2 as id")})

    marts.run("r3", {}, done=[DIM], resumes="r2")

    state = marts.state(DIM)
    assert (state.live_run, state.previous_run) == ("r3", "r1")
    assert marts.publisher(DIM).get_schemas({DIM.unique_id}, "r3") == {DIM.unique_id: "marts__b"}


def test_models_that_a_run_does_not_build_are_read_where_their_rows_are(marts: Marts) -> None:
    other = rebuilt("other")
    marts.run("r1", {DIM: create("select 1 as id")})

    schemas = marts.publisher(DIM, other).get_schemas(set(), "r2")

    assert schemas == {DIM.unique_id: "marts__a"}, "one that is unpublished is where dbt has it"


# Copies of rows.

COLUMNS = "id int, part text, value numeric"
KEYS: dict[str, tuple[str, ...]] = {
    "one column": ("id",),
    "two columns": ("id", "part"),
    "none": (),
    "an expression": ("lower(part)",),
}
# Statements of a run on its build slot; some have nulls in the key.
MERGE = (
    "merge into {this} as old using (select distinct on (id, part) * from (values {rows})"
    " as n (id, part, value)) as new on old.id = new.id and old.part = new.part"
    " when matched then update set value = new.value"
    " when not matched then insert (id, part, value) values (new.id, new.part, new.value)"
)
STATEMENTS = (
    "insert into {this} (id, part, value) values {rows}",
    "insert into {this} (id, part, value) values {rows}",
    MERGE,
    "delete from {this} where id = {id}; insert into {this} (id, part, value) values {rows}",
    "update {this} set value = value + 1 where id > {id}",
    "update {this} set id = id + 1, part = part || 'x' where id = {id}",
    "delete from {this} where id = {id}",
    "begin; insert into {this} (id, part, value) values {rows}; rollback;",
    "begin; insert into {this} (id, part, value) values {rows}; savepoint s;"
    " insert into {this} (id, part, value) values {rows}; commit;",
)
# A model without a key is one that only grows; after other statements, all rows are copied.
APPENDING = [text for text in STATEMENTS if text.startswith(("insert", "begin"))]
RARE_STATEMENTS = (
    "insert into {this} (id, part, value) values (null, null, 1)",
    "truncate {this}",
    "alter table {this} add column if not exists c{id} int default 7; update {this} set c{id} = id",
    "alter table {this} alter column value type numeric(12, 3)",
    "alter table {this} drop column value; alter table {this} add column value numeric",
    "create table {this}_new as table {this}; drop table {this} cascade;"
    " alter table {this}_new rename to fact",
)


def _mix(draw: random.Random, statements: Sequence[str]) -> str:
    def rows(_: object = None) -> str:
        return ", ".join(
            f"({draw.randint(0, 30)}, '{draw.choice('abC')}', {draw.randint(0, 99)})"
            for _ in range(draw.randint(1, 6))
        )

    return (
        draw.choice(statements).replace("{rows}", rows()).replace("{id}", str(draw.randint(0, 30)))
    )


# The share of rare statements. With many, or with updates of a model without a key, a run often has
# to copy all rows.
MIXES = {"usual": 0.06, "harsh": 0.15}


@pytest.mark.parametrize(
    ("mix", "seed"),
    [
        ("usual", 0),
        *(
            pytest.param(mix, seed, marks=pytest.mark.nightly)
            for mix in MIXES
            for seed in range(1, 20)
        ),
    ],
)
@pytest.mark.parametrize("key", KEYS)
def test_the_build_slot_starts_from_the_published_rows(
    marts: Marts, key: str, mix: str, seed: int
) -> None:
    """After any mix of changes on both slots, in published runs and in failed ones."""
    draw = random.Random(f"{key} {seed}")
    model = incremental("fact", *KEYS[key])
    marts.run("r0", {model: f"create table {{this}} ({COLUMNS})"})
    copied = []
    for number in range(1, 16):
        run = f"r{number}"
        record = marts.build(run, {model: ""})
        copied += record["copied"]
        assert marts.difference(model) == 0, number
        build = f"marts__{marts.state(model).build_slot}.fact"
        for _ in range(draw.randint(1, 3)):
            appends = mix == "usual" and key == "none" and draw.random() < 0.9
            usual = APPENDING if appends else STATEMENTS
            statements = RARE_STATEMENTS if draw.random() < MIXES[mix] else usual
            marts.query(_mix(draw, statements).replace("{this}", build))
        if draw.random() < 0.6:
            marts.switch(run, model)
        if draw.random() < 0.2:
            live = f"marts__{marts.state(model).live_slot}.fact"
            marts.query(_mix(draw, STATEMENTS).replace("{this}", live))
        if draw.random() < 0.1:
            marts.query("update marts.fact set value = -1 where id > 10")
    if mix == "usual":
        assert ("changed rows" in copied) == (key != "an expression")


def test_only_rows_that_changed_are_copied(marts: Marts) -> None:
    row = "insert into {this} values"
    marts.run("r1", {FACT: "create table {this} (id int primary key, run text)"})
    marts.run("r2", {FACT: f"{row} (1, 'r2'), (2, 'r2')"})
    assert marts.read(FACT) == [(1, "r2"), (2, "r2")]

    record = marts.run(
        "r3", {FACT: f"update {{this}} set run = 'r3' where id < 2; {row} (3, 'r3')"}
    )

    assert record["copied"] == {"changed rows": ["marts.fact"]}
    assert marts.read(FACT) == [(1, "r3"), (2, "r2"), (3, "r3")]
    assert marts.query("select relname from pg_class where relname ~ '^changes_.*_b'") != []
    marts.build("r4", {FACT: ""})
    # Row 2 was not touched: its transaction is not that of the copied ones.
    [(old,), (new,)] = marts.query(
        "select distinct xmin::text from marts__b.fact where id in (1, 2) order by 1"
    )
    assert old != new


def test_a_failed_attempt_in_the_build_slot_is_undone(marts: Marts) -> None:
    marts.run("r1", {FACT: "create table {this} as select 1 as id, 'r1' as run"})
    marts.run("r2", {FACT: "update {this} set run = 'r2'"})
    marts.build(
        "r3", {FACT: "insert into {this} values (9, 'bad'); delete from {this} where id = 1"}
    )

    record = marts.run("r4", {FACT: ""})

    assert record["copied"] == {"changed rows": ["marts.fact"]}
    assert marts.read(FACT) == [(1, "r2")]


def test_a_statement_of_a_killed_run_ends_before_rows_are_copied(marts: Marts) -> None:
    marts.run("r1", {FACT: "create table {this} as select 1 as id"})
    marts.run("r2", {FACT: ""})
    marts.build("r3", {FACT: ""})
    with closing(marts.open()) as killed:
        killed.cursor().execute("insert into marts__a.fact values (9)")
        with in_background(lambda: marts.build("r4", {FACT: ""})) as run:
            waits_for_lock(marts)
            killed.commit()
    assert run[0]["copied"] == {"changed rows": ["marts.fact"]}
    assert marts.difference(FACT) == 0


def test_autovacuum_does_not_keep_rows_from_being_copied(marts: Marts) -> None:
    marts.run("r1", {FACT: "create table {this} as select 1 as id"})
    marts.run("r2", {FACT: "insert into {this} values (2)"})
    with closing(marts.open()) as vacuum:
        vacuum.cursor().execute("lock table marts__a.fact in share update exclusive mode")
        with in_background(lambda: marts.build("r3", {FACT: ""})) as run:
            try:
                until(lambda: bool(run))
            finally:
                vacuum.rollback()
    assert run[0]["copied"] == {"changed rows": ["marts.fact"]}


def test_readers_statistics_are_renewed_when_a_tenth_of_the_rows_changed(marts: Marts) -> None:
    def newest_in_statistics() -> list[tuple[Any, ...]]:
        return marts.query(
            "select (histogram_bounds::text::int[])[array_length(histogram_bounds::text::int[], 1)]"
            " from pg_stats where tablename = 'fact' and schemaname = 'marts' and inherited"
        )

    marts.run("r1", {FACT: create("select generate_series(1, 1000) as id")})
    assert newest_in_statistics() == [(1000,)]
    marts.query("analyze marts__a.fact")  # as autovacuum does
    for number in (1, 2):
        marts.run(f"add {number}", {FACT: f"insert into {{this}} values ({number + 1000})"})
        assert newest_in_statistics() == [(1000,)]
        assert marts.state(FACT).unanalyzed_rows == number

    marts.run("r2", {FACT: "insert into {this} select generate_series(2001, 2098)"})

    assert newest_in_statistics() == [(2098,)]
    assert marts.state(FACT).unanalyzed_rows == 0
    marts.run("r3", {FACT: create("select 7 as id union select 8")}, full_refresh=True)
    assert newest_in_statistics() == [(8,)]


def test_rows_of_a_first_run_that_failed_are_dropped(marts: Marts) -> None:
    marts.build("r1", {FACT: create("select 1 as id")})

    record = marts.run("r2", {FACT: "create table {this} as select 2 as id"})

    assert record["copied"] == {"nothing": ["marts.fact"]}
    assert marts.read(FACT) == [(2,)]


def test_a_full_refresh_starts_without_rows_and_the_next_run_copies_all(marts: Marts) -> None:
    marts.run("r1", {FACT: create("select 1 as id")})
    marts.run("r2", {FACT: ""})

    assert marts.run("r3", {FACT: create("select 3 as id")}, full_refresh=True)["copied"] == {}
    assert marts.read(FACT) == [(3,)]

    assert marts.build("r4", {FACT: ""})["copied"] == {"all rows": ["marts.fact"]}
    assert marts.difference(FACT) == 0


def test_a_model_changes_from_incremental_to_table_and_back(marts: Marts) -> None:
    as_table = replace(FACT, keeps_rows=False, unique_key=())
    marts.run("r1", {FACT: create("select 1 as id")})
    marts.run("r2", {FACT: "insert into {this} values (2)"})
    marts.run("r3", {as_table: create("select 3 as id")})

    marts.run("r4", {FACT: "insert into {this} values (4)"})

    assert marts.read(FACT) == [(3,), (4,)]


def test_a_changed_key_copies_all_rows_once(marts: Marts) -> None:
    other_key = replace(FACT, unique_key=("part",))
    marts.run("r1", {FACT: create("select 1 as id, 'a' as part")})
    assert marts.run("r2", {FACT: ""})["copied"] == {"all rows": ["marts.fact"]}
    assert marts.run("r3", {other_key: ""})["copied"] == {"all rows": ["marts.fact"]}
    record = marts.run("r4", {other_key: "insert into {this} values (4, 'd')"})
    assert record["copied"] == {"changed rows": ["marts.fact"]}
    assert marts.build("r5", {other_key: ""})["copied"] == {"changed rows": ["marts.fact"]}
    assert marts.difference(other_key) == 0


def test_a_copy_has_the_keys_indexes_and_defaults_of_the_published_table(marts: Marts) -> None:
    """With an identity column, whose values are copied."""
    table = (
        "create table {this} (id int generated always as identity primary key, part text unique"
        " default 'p' check (part <> ''), dim int);"
        " create index on {this} (lower(part)) where dim > 0;"
        " create unique index on {this} (dim, id)"
    )
    marts.run("r1", {FACT: table})

    def definitions(slot: str) -> list[tuple[Any, ...]]:
        return marts.query(
            "select pg_get_constraintdef(oid) from pg_constraint where conrelid ="
            f" 'marts__{slot}.fact'::regclass union all select"
            f" regexp_replace(indexdef, '^.* USING', '') from pg_indexes"
            f" where schemaname = 'marts__{slot}' order by 1"
        )

    first = definitions("a")
    marts.build("r2", {FACT: "insert into {this} (part, dim) values ('x', 1)"})
    assert definitions("b") == first
    assert len(first) >= 5


def test_foreign_keys_do_not_keep_rows_from_being_copied(marts: Marts) -> None:
    """dbt creates them with a table. Rows of another run need not fit them."""
    dim, fact = incremental("dim", "id"), incremental("fact", "id")
    both = {
        dim: "create table {this} (id int primary key, run text)",
        fact: "create table {this} (id int, dim int, run text)",
    }
    marts.run("r1", both)
    marts.run("r2", {dim: "insert into {this} values (1, 'r2')", fact: ""})
    for slot in "ab":
        marts.query(
            f"insert into marts__{slot}.dim values (9, 'x'); insert into marts__{slot}.fact values"
            f" (9, 9, 'x'); alter table marts__{slot}.fact add foreign key (dim) references"
            f" marts__{slot}.dim (id)"
        )
    marts.run("r3", {dim: "insert into {this} values (2, 'r3')", fact: ""})
    marts.query("delete from marts__a.fact; delete from marts__a.dim where id = 9")
    marts.query("insert into marts__a.fact values (1, 2, 'y')")

    record = marts.build("r4", {dim: "", fact: ""})

    assert record["copied"] == {"changed rows": ["marts.dim", "marts.fact"]}
    assert marts.difference(dim) == marts.difference(fact) == 0


# Changes by hand.


@pytest.mark.parametrize("statement", ["update marts.fact set id = 7", "delete from marts.fact"])
def test_rows_that_somebody_changes_are_copied_by_the_next_run(
    marts: Marts, statement: str
) -> None:
    marts.run("r1", {FACT: create("select 1 as id")})
    marts.run("r2", {FACT: "insert into {this} values (2)"})
    marts.query(statement)
    assert marts.state(FACT).is_edited
    assert marts.state(FACT).previous_run is None
    edited = marts.read(FACT)

    assert marts.run("r3", {FACT: ""})["copied"] == {"all rows": ["marts.fact"]}

    assert marts.read(FACT) == edited
    assert not marts.state(FACT).is_edited
    assert marts.run("r4", {FACT: ""})["copied"] == {"changed rows": ["marts.fact"]}


def test_inserted_rows_are_refused_and_truncated_ones_noticed(marts: Marts) -> None:
    marts.run("r1", {FACT: create("select 1 as id")})

    with pytest.raises(REFUSED, match=r"marts\.fact is published: its rows come from dbt"):
        marts.query("insert into marts.fact values (2)")

    marts.query("truncate marts.fact")
    assert marts.state(FACT).is_edited
    assert marts.run("r2", {FACT: ""})["copied"] == {"all rows": ["marts.fact"]}
    assert marts.read(FACT) == []


def test_rows_that_somebody_changes_during_a_run_are_not_lost(marts: Marts) -> None:
    marts.run("r1", {FACT: create("select 1 as id")})
    marts.build("r2", {FACT: "insert into {this} values (2)"})
    marts.query("update marts.fact set id = 7")

    with pytest.raises(PublishError, match="fact were changed while the run built new ones"):
        marts.switch("r2", FACT)

    assert marts.read(FACT) == [(7,)]
    marts.run("r3", {FACT: "insert into {this} values (2)"})
    assert marts.read(FACT) == [(2,), (7,)]


def test_a_change_that_commits_while_the_run_prepares_or_switches_is_not_lost(
    marts: Marts,
) -> None:
    marts.run("r1", {FACT: create("select 1 as id")})
    marts.run("r2", {FACT: ""})
    with closing(marts.open()) as editor:
        editor.cursor().execute("update marts.fact set id = 7")
        with in_background(lambda: marts.build("r3", {FACT: ""})) as run:
            waits_for_lock(marts)
            editor.commit()
    assert run == [{"copied": {"all rows": ["marts.fact"]}, "removed": []}]

    with closing(marts.open()) as editor:
        editor.cursor().execute("update marts.fact set id = 8")
        with in_background(lambda: marts.switch("r3", FACT)) as run:
            waits_for_lock(marts)
            editor.commit()
    assert isinstance(run[0], PublishError)
    assert "changed while the run built" in str(run[0])
    assert marts.read(FACT) == [(8,)]


def test_changes_by_hand_of_a_model_that_is_rebuilt_do_not_matter(marts: Marts) -> None:
    marts.run("r1", {DIM: create("select 1 as id")})
    marts.build("r2", {DIM: create("select 2 as id")})
    marts.query("update marts.dim set id = 7")

    marts.switch("r2", DIM)

    assert marts.read(DIM) == [(2,)]


@contextmanager
def in_background(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run it in a thread; the list has its result, or its error, after the context."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(work())
        except PublishError as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield result
    finally:
        thread.join(PATIENCE)
    assert result, "it did not end"


def waits_for_lock(marts: Marts) -> None:
    """Wait until a session waits for a lock."""
    with closing(marts.open()) as connection:
        connection.autocommit = True
        cursor = connection.cursor()

        def is_waiting() -> bool:
            cursor.execute("select count(*) from pg_locks where not granted")
            return cursor.fetchone() != (0,)

        until(is_waiting)


# Tables and views that exist before their target publishes.


def test_a_table_becomes_the_parent_and_keeps_what_readers_made(marts: Marts) -> None:
    marts.query(
        "create schema marts; create role analyst;"
        "create table marts.fact (id int primary key, part text not null default 'p', "
        " value int check (value > 0), unique (part, id));"
        "create index on marts.fact (lower(part)); create index on marts.fact (value);"
        "insert into marts.fact values (1, 'a', 1), (2, 'b', 2);"
        "create view public.reader as select id, part from marts.fact;"
        "grant select on marts.fact to analyst; grant select (id) on marts.fact to analyst;"
        "comment on table marts.fact is 'by hand'; comment on column marts.fact.value is 'by hand'"
    )
    [(oid,)] = marts.query("select 'marts.fact'::regclass::oid")

    record = marts.run("r1", {FACT: "insert into {this} values (3, 'c', 3)"})

    assert record["copied"] == {"all rows": ["marts.fact"]}
    assert marts.query("select 'marts.fact'::regclass::oid") == [(oid,)]
    assert marts.read(FACT, "id, value") == [(1, 1), (2, 2), (3, 3)]
    assert marts.query("select count(*) from only marts.fact") == [(0,)]
    assert marts.query("select count(*) from public.reader") == [(3,)]
    assert marts.query("select has_table_privilege('analyst', 'marts.fact', 'select')") == [(True,)]
    assert marts.query("select obj_description('marts.fact'::regclass)") == [("by hand",)]
    # The slot's table has the keys and checks; the parent has none.
    with pytest.raises(psycopg2.IntegrityError):
        marts.query("insert into marts__a.fact values (1, 'a', 1)")
    assert marts.query("select count(*) from pg_constraint where conrelid = 'marts.fact'::regclass"
                       " union all select count(*) from pg_index"
                       " where indrelid = 'marts.fact'::regclass") == [(0,), (0,)]  # fmt: skip
    # A column of an index on an expression changes its type.
    marts.query("drop view public.reader")
    changed = "select 1 as id, 5 as part, 1 as value"
    marts.run("r2", {FACT: create(changed)}, full_refresh=True)
    assert marts.read(FACT) == [(1, 5, 1)]


def test_tables_with_foreign_keys_to_each_other_become_parents(marts: Marts) -> None:
    """As a contract's constraints made them in an earlier run that did not publish."""
    fact = rebuilt("a_fact")
    marts.query(
        "create schema marts; create table marts.dim (id int primary key, parent int references"
        " marts.dim (id)); create table marts.a_fact (id int, dim int references marts.dim (id))"
    )
    one = {DIM: create("select 1 as id, 1 as parent"), fact: create("select 1 as id, 1 as dim")}
    marts.run("r1", one)
    assert marts.read(fact) == [(1, 1)]
    assert marts.read(DIM) == [(1, 1)]


def test_a_foreign_key_of_somebody_elses_table_is_not_dropped(marts: Marts) -> None:
    marts.query(
        "create schema marts; create table marts.dim (id int primary key);"
        "create table public.orders (dim int constraint to_dim references marts.dim (id))"
    )
    marts.build("r1", {DIM: create("select 1 as id")})

    with pytest.raises(PublishError) as raised:
        marts.switch("r1", DIM)

    assert "the foreign key to_dim of orders refers to marts.dim, whose rows move" in str(raised)
    assert marts.read(DIM) == []


def test_views_become_tables_with_their_grants(marts: Marts) -> None:
    """One of them reads another; no reader has objects that depend on them."""
    over = rebuilt("a_view_over_dim")
    marts.query(
        "create schema marts; create role clerk; create view marts.dim as select 0 as id;"
        "create materialized view marts.a_view_over_dim as select id from marts.dim;"
        "grant select on marts.dim to clerk"
    )

    marts.run("r1", {DIM: create("select 1 as id"), over: create("select 2 as id")})

    assert marts.read(DIM) == [(1,)]
    assert marts.read(over) == [(2,)]
    assert marts.query("select relkind::text from pg_class where oid in"
                       " ('marts.dim'::regclass, 'marts.a_view_over_dim'::regclass)"
                       ) == [("r",), ("r",)]  # fmt: skip
    assert marts.query("select has_table_privilege('clerk', 'marts.dim', 'select')") == [(True,)]


def test_a_view_that_a_reader_depends_on_stays(marts: Marts) -> None:
    marts.query(
        "create schema marts; create view marts.dim as select 0 as id;"
        "create view public.reader as select id from marts.dim"
    )
    marts.build("r1", {DIM: create("select 1 as id")})

    with pytest.raises(PublishError) as raised:
        marts.switch("r1", DIM)

    assert "reader depends on marts.dim, which is a view and becomes a table" in str(raised.value)
    assert marts.query("select id from public.reader") == [(0,)]


# Columns.


def test_a_lost_column_that_a_reader_uses_is_one_error_and_nothing_changes(marts: Marts) -> None:
    other = rebuilt("other")
    first = create("select 1 as id, 'a' as part, 1.5 as value")
    marts.run("r1", {DIM: first, other: first})
    marts.query(
        "create view public.by_part as select part from marts.dim;"
        "create materialized view public.kept as select value from marts.dim"
    )
    marts.build("r2", {DIM: create("select 2 as id, 'x' as value"), other: first})

    with pytest.raises(PublishError) as raised:
        marts.switch("r2", DIM, other)

    assert "by_part uses the column part, and marts.dim loses it" in str(raised.value)
    assert "kept uses the column value, and marts.dim changes the type of it" in str(raised.value)
    assert marts.read(DIM, "part") == [("a",)]
    assert marts.state(other).live_run == "r1"

    marts.query("drop view public.by_part; drop materialized view public.kept")
    marts.switch("r2", DIM, other)
    assert marts.read(DIM) == [(2, "x")]


def test_columns_that_no_reader_uses_come_go_and_change(marts: Marts) -> None:
    marts.run("r1", {DIM: create("select 1 as id, 'a' as part, 1.5::numeric(5, 2) as value")})
    marts.query("create view public.reader as select id from marts.dim")

    marts.run("r2", {DIM: create("""select now() as "at", 'b' collate "C" as value, 2 as id""")})

    columns = marts.query(
        "select attname::text, format_type(atttypid, atttypmod), collname::text from pg_attribute"
        " left join pg_collation as c on c.oid = attcollation"
        " where attrelid = 'marts.dim'::regclass and attnum > 0 and not attisdropped order by 1"
    )
    assert columns == [
        ("at", "timestamp with time zone", None), ("id", "integer", None), ("value", "text", "C"),
    ]  # fmt: skip
    assert marts.query("select * from public.reader") == [(2,)]
    marts.run("r3", {DIM: create("select 3 as id")})
    assert marts.read(DIM) == [(3,)]


# Grants and comments.


def test_grants_of_dbt_come_and_go_and_manual_ones_stay(marts: Marts) -> None:
    marts.query('create role "Tool %"; create role friend; create role boss')
    table = create("select 1 as id")
    marts.run("r1", {DIM: f'{table}; grant select on {{this}} to "Tool %", boss with grant option'})
    marts.query("grant select, update on marts.dim to friend")

    def grants() -> list[tuple[Any, ...]]:
        return marts.query(
            "select grantee::regrole::text, privilege_type, is_grantable from pg_class,"
            " aclexplode(relacl) where oid = 'marts.dim'::regclass and grantee <> relowner"
            " order by 1, 2"
        )

    manual = [("friend", "SELECT", False), ("friend", "UPDATE", False)]
    assert grants() == [('"Tool %"', "SELECT", True), ("boss", "SELECT", True), *manual]
    marts.run("r2", {DIM: f"{table}; grant select on {{this}} to public"})
    assert grants() == [("-", "SELECT", False), *manual]
    marts.run("r3", {DIM: table})
    assert grants() == manual


def test_readers_need_no_privilege_on_the_slots(marts: Marts) -> None:
    marts.query(
        "create role reader login; create schema marts; grant usage on schema marts to reader"
    )
    marts.run("r1", {DIM: create("select 1 as id") + "; grant select on {this} to reader"})

    with closing(marts.open("reader")) as connection, connection.cursor() as cursor:
        cursor.execute("select id from marts.dim")
        assert cursor.fetchall() == [(1,)]
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("select id from marts__a.dim")


def test_comments_of_dbt_reach_readers(marts: Marts) -> None:
    marts.run("r1", {DIM: create("select 1 as id, 2 as n")
              + "; comment on table {this} is '100 % of it''s rows'; comment on column {this}.id"
              " is 'the key'"})  # fmt: skip
    marts.query("comment on column marts.dim.n is 'by hand'")
    marts.run(
        "r2", {DIM: create("select 1 as id, 2 as n") + "; comment on column {this}.id is 'k'"}
    )

    assert marts.query(
        "select obj_description(c), col_description(c, 1), col_description(c, 2)"
        " from cast('marts.dim'::regclass as oid) as c"
    ) == [("100 % of it's rows", "k", "by hand")]


# Checks, names, leftovers.


def test_too_long_schema_names_are_refused(marts: Marts) -> None:
    long = rebuilt("dim", "s" * 61)
    with pytest.raises(PublishError, match=f"'{'s' * 61}__a' has 64 bytes; Postgres allows 63"):
        marts.publisher(long).check([long])
    fits = rebuilt("d" * 63, "ü" * 30)
    marts.run("r1", {fits: create("select 1 as id")})
    assert marts.read(fits) == [(1,)]

    marts.target_schema = "t" * 56
    with pytest.raises(PublishError, match="t_publish' has 64 bytes"):
        marts.publisher(DIM).check([DIM])


WEIRD = 'A "b".c %s 100% {x} ü\'; --'


def test_names_with_anything_in_them(marts: Marts) -> None:
    marts.target_schema = WEIRD
    key = 'Key % "%s"'
    model = PublishedModel("m", None, f"S {WEIRD}", f"R {WEIRD}", "default", True, (key,))
    unkeyed = replace(model, unique_id="u", name=f"U {WEIRD}", unique_key=())
    seed = replace(model, unique_id="s", name=f"T {WEIRD}", keeps_rows=False, is_seed=True)
    quoted = _quote(key)
    table = f'create table {{this}} as select 1 as {quoted}, 2 as "%s %(x)s {{}}"'
    insert = f"insert into {{this}} select max({quoted}) + 1, 3 from {{this}}"
    marts.run("r1", {model: table, unkeyed: table, seed: table})
    marts.run("r2", {model: insert, unkeyed: insert, seed: table})

    record = marts.build("r3", {model: insert, unkeyed: insert, seed: table})
    again = marts.run("r4", {model: insert, unkeyed: insert}, done=[seed], resumes="r3")

    assert record["copied"] == again["copied"] == {"changed rows": [str(model), str(unkeyed)]}
    assert marts.read(model) == marts.read(unkeyed) == [(1, 2), (2, 3), (3, 3)]
    assert marts.state(seed).live_run == "r4"
    with pytest.raises(REFUSED):
        marts.query(f"insert into {_quote(model.schema)}.{_quote(model.name)} values (1, 1)")


def test_a_key_may_have_the_name_of_a_column_of_the_records(marts: Marts) -> None:
    model = incremental("fact", "everything", "row_count", "keys")
    table = "create table {this} as select 1 as everything, 2 as row_count, 3 as keys"
    marts.run("r1", {model: table})
    marts.run("r2", {model: "insert into {this} values (2, 2, 2)"})
    assert marts.build("r3", {model: ""})["copied"] == {"changed rows": ["marts.fact"]}
    assert marts.difference(model) == 0


def test_leftovers_of_killed_runs_and_removed_models_are_dropped(marts: Marts) -> None:
    long = rebuilt("x" * 60)
    removed = rebuilt("removed")
    run = create("select 1 as id")
    marts.run("r1", {DIM: run, long: run, removed: run})
    marts.run("r2", {DIM: run, long: run, removed: run})
    short = "x" * (63 - len("__dbt_backup"))
    marts.query(
        "create table marts__a.dim__dbt_tmp (id int); create view marts__b.dim__dbt_backup as"
        f' select 1; create table marts__a."{short}__dbt_backup" (id int);'
        "create table marts__a.of_somebody (id int)"
    )

    record = marts.build("r3", {DIM: run, long: run})

    assert sorted(record["removed"]) == [
        "marts__a.dim__dbt_tmp", "marts__a.removed", f"marts__a.{short}__dbt_backup",
        "marts__b.dim__dbt_backup",
    ]  # fmt: skip
    assert marts.query("select to_regclass('marts__a.of_somebody') is not null") == [(True,)]
    assert marts.read(removed) == [(1,)], "readers keep a removed model until somebody drops it"


# Privileges.


@pytest.fixture
def pipeline(marts: Marts) -> Iterator[Marts]:
    """The same as a role that may create nothing in the database."""
    marts.query("create role pipeline login; create role someone_else")
    other = Marts(marts.warehouse, user="pipeline")
    yield other
    if other.session is not None:
        other.session.close()


@pytest.fixture(autouse=True)
def roles(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drop roles, which all databases of the server have in common."""
    yield
    if "server" in request.fixturenames:
        admin = on(request.getfixturevalue("server"), "postgres")
        for (name,) in admin.query(
            "select rolname from pg_roles where rolname <> 'postgres' and rolname !~ '^pg_'"
        ):
            admin.query(f"drop role {_quote(name)}")


def test_missing_privileges_are_listed_before_anything_changes(
    marts: Marts, pipeline: Marts
) -> None:
    marts.query(
        "create schema marts authorization someone_else; create schema marts__a;"
        "create table marts.dim (id int); grant usage on schema marts to pipeline"
    )

    with pytest.raises(PublishError) as raised:
        pipeline.publisher(DIM).check([DIM])

    text = str(raised.value)
    assert "no privilege CREATE on the schema marts of someone_else" in text
    assert "no privilege CREATE on the schema marts__a of postgres" in text
    assert ", for the schema marts__b" in text
    assert ", for the schema embedded_publish" in text
    assert "marts.dim belongs to another role" in text
    assert "as pipeline" in text
    assert marts.query("select to_regnamespace('marts__b')::text") == [(None,)]


def test_schemas_that_an_administrator_created_are_enough(marts: Marts, pipeline: Marts) -> None:
    """The role needs no privilege to create schemas."""
    for schema in ("marts", "marts__a", "marts__b", "embedded_publish"):
        marts.query(f"create schema {schema}; grant all on schema {schema} to pipeline")
    table = create("select 1 as id")
    pipeline.run("r1", {DIM: table, FACT: table})
    pipeline.run("r2", {DIM: table, FACT: "insert into {this} values (2)"})
    pipeline.run("r3", {DIM: table, FACT: "insert into {this} values (3)"})
    assert pipeline.read(FACT) == [(1,), (2,), (3,)]


def test_partitioned_and_foreign_tables_are_refused(marts: Marts) -> None:
    marts.query("create schema marts; create table marts.dim (id int) partition by range (id)")
    with pytest.raises(
        PublishError, match=r"marts\.dim is a partitioned table, not a table or view"
    ):
        marts.publisher(DIM).check([DIM])


# Locks.


def test_the_switch_waits_for_a_reader_and_says_which(
    marts: Marts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "PAUSE_SECONDS", 0.05)
    caplog.set_level(logging.INFO, "test")
    marts.run("r1", {DIM: create("select 1 as id")})
    marts.build("r2", {DIM: create("select 2 as id")})
    with closing(marts.open()) as reader, reader.cursor() as cursor:
        cursor.execute("set application_name = 'a report'; begin; select id from marts.dim")
        pid = reader.get_backend_pid()
        with in_background(lambda: marts.switch("r2", DIM)) as result:
            until(lambda: "Readers hold locks" in caplog.text)
            cursor.execute("select id from marts.dim")
            assert cursor.fetchall() == [(1,)], "the reader is not cancelled, and waits for nobody"
            reader.rollback()
    assert isinstance(result[0], float)
    assert f"process {pid} of postgres (a report), idle in transaction since " in caplog.text
    assert marts.read(DIM) == [(2,)]


def test_a_reader_that_does_not_end_makes_the_switch_fail_for_a_retry(
    marts: Marts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(publishing, "LOCK_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(publishing, "SWITCH_ATTEMPTS", 2)
    marts.run("r1", {DIM: create("select 1 as id")})
    marts.build("r2", {DIM: create("select 2 as id")})
    with closing(marts.open()) as reader, reader.cursor() as cursor:
        cursor.execute("select id from marts.dim")
        with pytest.raises(
            PublishError, match="Readers hold locks on the marts: process"
        ) as raised:
            marts.switch("r2", DIM)
        assert raised.value.retryable
        cursor.execute("select id from marts.dim")
        assert cursor.fetchall() == [(1,)]
    marts.switch("r2", DIM)
    assert marts.read(DIM) == [(2,)]


def test_a_vacuum_delays_the_switch_but_no_reader(
    marts: Marts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock that vacuums hold is waited for before any lock that disturbs readers."""
    monkeypatch.setattr(switching, "AUTOVACUUM_SECONDS", -0.5)
    monkeypatch.setattr(publishing, "PAUSE_SECONDS", 0.05)
    caplog.set_level(logging.INFO, "test")
    marts.run("r1", {DIM: create("select 1 as id")})
    marts.build("r2", {DIM: create("select 2 as id")})
    with closing(marts.open()) as vacuum:
        vacuum.cursor().execute("lock table marts__a.dim in share update exclusive mode")
        with in_background(lambda: marts.switch("r2", DIM)) as result:
            waits_for_lock(marts)
            marts.query("set lock_timeout = '1ms'")
            assert marts.read(DIM) == [(1,)]
            until(lambda: f"process {vacuum.get_backend_pid()} of postgres" in caplog.text)
            vacuum.rollback()
    assert isinstance(result[0], float)
    assert marts.read(DIM) == [(2,)]


def test_readers_that_lock_in_another_order_are_never_cancelled(
    marts: Marts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One holds the last model and waits for the first. Postgres cancels it after a second."""
    monkeypatch.setattr(publishing, "PAUSE_SECONDS", 0.05)
    models = [rebuilt(f"m{number}") for number in range(4)]
    marts.run("r1", {model: create("select 1 as id") for model in models})
    marts.build("r2", {model: create("select 2 as id") for model in models})
    readers = [marts.open() for _ in models]
    # They hold the locks of the middle for almost as long as the switch waits for each.
    for reader, model in zip(readers, models, strict=True):
        reader.cursor().execute(f"select * from marts.{model.name}")

    def release() -> list[bool]:
        for reader in readers[:3]:
            time.sleep(0.45)
            reader.rollback()
        return [True]

    def read_first() -> list[Any]:
        time.sleep(0.6)
        cursor = readers[3].cursor()
        cursor.execute("select * from marts.m0")
        rows = cursor.fetchall()
        readers[3].rollback()
        return [rows]

    with (
        in_background(lambda: marts.switch("r2", *models)) as switched,
        in_background(read_first) as read,
        in_background(release),
    ):
        pass
    for reader in readers:
        reader.close()
    assert isinstance(switched[0], float)
    assert read in ([[[(1,)]]], [[[(2,)]]])
    assert marts.read(models[3]) == [(2,)]


def test_a_transaction_with_an_old_snapshot_does_not_find_empty_tables(
    marts: Marts, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot see the new rows: the switch waits until it ends."""
    caplog.set_level(logging.INFO, "test")
    marts.run("r1", {DIM: create("select 1 as id")})
    with closing(marts.open()) as reader, reader.cursor() as cursor:
        reader.set_session(isolation_level="REPEATABLE READ")
        cursor.execute("select 1")
        marts.build("r2", {DIM: create("select 2 as id")})
        with in_background(lambda: marts.switch("r2", DIM)) as result:
            until(lambda: "began before the new rows" in caplog.text)
            cursor.execute("select id from marts.dim")
            assert cursor.fetchall() == [(1,)]
            reader.commit()
    assert isinstance(result[0], float)
    assert marts.read(DIM) == [(2,)]


def test_the_switch_does_not_wait_for_ever_for_an_old_snapshot(
    marts: Marts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "SNAPSHOTS_TIMEOUT_SECONDS", 0.3)
    marts.run("r1", {DIM: create("select 1 as id")})
    with (
        closing(marts.open()) as reader,
        closing(marts.open()) as other,
        reader.cursor() as cursor,
    ):
        reader.set_session(isolation_level="REPEATABLE READ")
        cursor.execute("select 1")
        # An open transaction with READ COMMITTED has no snapshot between its statements.
        other.cursor().execute("select 1")
        marts.build("r2", {DIM: create("select 2 as id")})
        marts.switch("r2", DIM)
        assert f"process {reader.get_backend_pid()} of postgres, idle in trans" in caplog.text
        assert f"process {other.get_backend_pid()} " not in caplog.text
        cursor.execute("select id from marts.dim")
        assert cursor.fetchall() == [], "what the warning says"
    assert marts.read(DIM) == [(2,)]


# The way back.


def test_the_last_publication_can_be_undone_and_shown_again(marts: Marts) -> None:
    other = rebuilt("other")
    publisher = marts.publisher(DIM, FACT, other)
    with pytest.raises(PublishError, match="nothing was published twice"):
        publisher.show_previous(LOG)
    marts.run("r1", {DIM: create("select 1 as id"), FACT: create("select 1 as id")})
    with pytest.raises(PublishError, match="nothing was published twice"):
        publisher.show_previous(LOG)
    marts.run("r2", {DIM: create("select 2 as id"), FACT: "insert into {this} values (2)"})
    # A run of a selection, which shows one model for the first time.
    marts.run("r3", {DIM: create("select 3 as id"), other: create("select 3 as id")})

    assert publisher.show_previous(LOG) == [DIM], "the last publication did not change the others"
    assert (marts.read(DIM), marts.read(FACT), marts.read(other)) == ([(2,)], [(1,), (2,)], [(3,)])
    assert (marts.state(DIM).live_run, marts.state(DIM).previous_run) == ("r2", "r3")

    assert publisher.show_previous(LOG) == [DIM]
    assert marts.read(DIM) == [(3,)]

    marts.run("r4", {FACT: "insert into {this} values (4)"})
    assert publisher.show_previous(LOG) == [FACT]
    assert marts.read(FACT) == [(1,), (2,)]
    # The next run starts from what readers see.
    assert marts.run("r5", {FACT: "insert into {this} values (5)"})["copied"] == {
        "changed rows": ["marts.fact"]
    }
    assert marts.read(FACT) == [(1,), (2,), (5,)]


def test_the_way_back_is_closed_once_a_run_has_built_over_a_model(marts: Marts) -> None:
    publisher = marts.publisher(DIM, FACT)
    marts.run("r1", {DIM: create("select 1 as id"), FACT: create("select 1 as id")})
    marts.run("r2", {DIM: create("select 2 as id"), FACT: "insert into {this} values (2)"})
    marts.build("r3", {FACT: "insert into {this} values (3)"})

    with pytest.raises(PublishError, match=r"a later run has built over marts\.fact"):
        publisher.show_previous(LOG)

    assert marts.read(DIM) == [(2,)], "not one model without the others"


def test_the_way_back_loses_no_change_by_hand(marts: Marts) -> None:
    publisher = marts.publisher(DIM)
    marts.run("r1", {DIM: create("select 1 as id")})
    marts.run("r2", {DIM: create("select 2 as id")})
    marts.query("update marts.dim set id = 7")

    with pytest.raises(PublishError, match=r"The rows of marts\.dim were changed by hand"):
        publisher.show_previous(LOG)

    assert marts.read(DIM) == [(7,)]


def test_the_way_back_does_not_break_objects_of_readers(marts: Marts) -> None:
    marts.run("r1", {DIM: create("select 1 as id")})
    marts.run("r2", {DIM: create("select 2 as id, 2 as extra")})
    marts.query("create view public.reader as select extra from marts.dim")

    with pytest.raises(PublishError, match=r"reader uses the column extra, and marts.dim loses it"):
        marts.publisher(DIM).show_previous(LOG)

    assert marts.query("select extra from public.reader") == [(2,)]
