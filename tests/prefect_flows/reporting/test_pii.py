"""No column that may carry personal data is shown: by the text, and against a real database."""

from __future__ import annotations

import random

import psycopg2
import pytest

from prefect_flows.reporting.run_report.pii import hidden_columns, propagate_pii, tainted_names
from prefect_flows.transform.lineage import EVERY_COLUMN, LineageNode
from tests.support.project import Project
from tests.support.reporting.personal_queries import FOLLOWED, NOT_FOLLOWED, PII, TABLES


@pytest.mark.parametrize(("sql", "hidden"), FOLLOWED)
def test_personal_columns_are_followed_through_the_query(sql: str, hidden: set[str]) -> None:
    columns = [*hidden, "id", "name", "status", "n_records"]
    assert hidden_columns(sql, "postgres", columns, PII) == hidden


@pytest.mark.parametrize("sql", NOT_FOLLOWED)
def test_what_cannot_be_followed_hides_everything(sql: str) -> None:
    assert hidden_columns(sql, "postgres", ["id", "x"], PII) == {"id", "x"}


@pytest.mark.parametrize(
    "sql",
    ["", "select from where", "drop table people", "select 1; select email from people",
     "explain select email from people", "((((", "with x as (delete from people returning email "
     "as e) select e from x"],
)  # fmt: skip
def test_several_statements_hide_every_column(sql: str) -> None:
    assert hidden_columns(sql, "postgres", ["x"], PII) == {"x"}


def test_a_function_that_reads_a_query_of_its_own_is_hidden() -> None:
    sql = "select id, query_to_xml('select * from people', true, true, '') as x from orders"
    assert hidden_columns(sql, "postgres", ["id", "x"], PII) == {"x"}


def test_a_dialect_that_nobody_knows_hides_everything() -> None:
    assert hidden_columns("select 1 as x", "no such dialect", ["x"], PII) == {"x"}


def test_without_personal_data_nothing_is_hidden() -> None:
    assert hidden_columns("not even sql", "postgres", ["x"], frozenset()) == frozenset()


def test_a_relation_that_is_personal_as_a_whole_hides_everything() -> None:
    assert hidden_columns("select 1 as x", "postgres", ["x"], frozenset({EVERY_COLUMN})) == {"x"}


def test_names_that_dbt_numbers_are_hidden_too() -> None:
    sql = "select a.email, b.email, a.id from people as a join people as b on a.id = b.id"
    columns = ["email", "email_2", "id"]
    assert hidden_columns(sql, "postgres", columns, PII) == {"email", "email_2"}


@pytest.mark.parametrize(
    ("sql", "hidden"),
    [
        ("select `email` as a, id from `p.d.people`", {"a"}),
        ("select * except (email) from people", {"email"}),
        ("select * replace (lower(email) as name), id from people", {"name", "email"}),
        ("select profile.city as a, id from people", {"a"}),
        ("select p.profile.city, id from people as p", {"city"}),
        ("select struct(email as e) as s, id from people", {"s"}),
        ("select json_value(d, '$.email') as j, id from people", {"j"}),
        ("select to_json_string(p) as j, id from people as p", {"j"}),
        ("select any_value(email) as a, id from people group by id", {"a"}),
        ("select array_agg(struct(email, id) limit 1)[offset(0)] as a, id from people", {"a"}),
    ],
)
def test_bigquery_is_followed(sql: str, hidden: set[str]) -> None:
    columns = [*hidden, "id"]
    assert hidden_columns(sql, "bigquery", columns, PII) == hidden


@pytest.mark.parametrize(
    "sql",
    [
        "select e, id from people, people.email as e",
        "select e.street from people, unnest(profile.addresses) as e",
        "select profile.* from people",
        "select p.profile.* from people as p",
        "select as struct email from people",
        "select as value profile from people",
        "select * from people pivot (max(email) for name in ('a' as x))",
        "select * from people unpivot (v for k in (email, name))",
        "from people |> select email as x",
        "select id, f.x from people, f(email) as f",
        "select p.profile.city.name.short from people as p",
        "select * from ml.predict(model m, (select email as e from people))",
        "select * from external_query('c', 'select email as e from people')",
    ],
)
def test_what_cannot_be_followed_in_bigquery_hides_everything(sql: str) -> None:
    assert hidden_columns(sql, "bigquery", ["x", "id"], PII) == {"x", "id"}


def test_a_nested_field_taints_what_holds_it() -> None:
    pii = frozenset({"profile.email"})
    sql = "select p.profile as a, p.profile.email as b, p.id from people as p"
    assert hidden_columns(sql, "bigquery", ["a", "b", "id"], pii) == {"a", "b"}


def _model(name: str, *parents: str, pii: frozenset[str] = frozenset()) -> LineageNode:
    ids = tuple(f"model.p.{parent}" for parent in parents)
    return LineageNode(f"model.p.{name}", name, "model", "", ids, None, None, pii, None)


def test_a_rename_in_a_model_is_followed_to_those_that_read_it() -> None:
    lineage = {
        node.unique_id: node
        for node in (
            _model("users", pii=PII),
            _model("renamed", "users"),
            _model("behind", "renamed"),
            _model("unknown", "users"),
            _model("other"),
        )
    }
    compiled = {
        "model.p.renamed": "select id, email as contact from users",
        "model.p.behind": "select id, lower(contact) as handle from renamed",
    }
    ids = ["model.p.behind", "model.p.unknown", "model.p.other"]
    known = propagate_pii(lineage, ids, compiled, "postgres")
    assert "handle" in known["model.p.behind"].pii_columns
    assert "id" not in known["model.p.behind"].pii_columns
    assert known["model.p.unknown"].pii_columns == {EVERY_COLUMN}
    assert known["model.p.other"].pii_columns == frozenset()
    assert lineage["model.p.renamed"].pii_columns == frozenset(), "the lineage given is not changed"


def test_postgres_never_returns_a_secret_in_a_column_that_is_shown(project: Project) -> None:
    connection = project.connect()
    try:
        leaks = leaks_in(connection, made_up_queries(150))
    finally:
        connection.close()
    assert leaks == []


def made_up_queries(number: int, seed: int = 3) -> list[str]:
    """Queries put together by chance: expressions, nesting, unions, renames, whole rows."""
    chance = random.Random(seed)
    return [_made_up(chance, 3)[0] for _ in range(number)]


def _made_up(chance: random.Random, depth: int) -> tuple[str, list[str]]:
    """A query and the names of its columns, all of them text but the first."""
    names = chance.sample(["a", "b", "c", "email", "name", "d"], 2)
    if depth == 0 or chance.random() < 0.2:
        source, inner = "people as t", ["email", "name", "profile"]
    else:
        sql, inner = _made_up(chance, depth - 1)
        source = f"({sql}) as t"
    value = chance.choice(
        [
            "t.{}", "{}", "upper({}::text)", "case when t.id > 3 then {}::text end",
            "coalesce({}::text, 'x')", "t::text", "row_to_json(t)::text", "'k' || {}::text",
            "max({}::text) over ()", "(select {}::text)", "'plain'", "count(*) over ()::text",
            "md5({}::text)", "concat({}, '')",
        ]
    )  # fmt: skip
    one = value.format(chance.choice(inner))
    two = chance.choice(inner)
    # Every relation keeps its `id`, so that all queries run.
    plain = f"select t.id, ({one})::text as {names[0]}, {two}::text as {names[1]} from {source}"
    first, second = names
    other = f"select id, status as {first}, 'x' as {second} from orders"
    forms = {
        "plain": plain,
        "star": f"select t.* from ({plain}) as t",
        "union": f"{plain} union all {other}",
        "reversed": f"{other} union all {plain}",
        "cte": f"with t as ({plain}) select t.id, {first}, {second} from t",
        "join": f"select q.* from ({plain}) as q join orders as o on o.id = q.id",
        "scalar": f"select o.id, (select max({first}) from ({plain}) as s) as {first}, "
        f"o.status as {second} from orders as o",
        "list": f"with t(id, {first}, {second}) as ({plain}) select * from t",
    }
    return chance.choice(list(forms.values())), names


def leaks_in(connection: psycopg2.extensions.connection, queries: list[str]) -> list[str]:
    """Those queries that return a secret in a column that would be shown."""
    leaks = []
    with connection.cursor() as cursor:
        cursor.execute(TABLES)
        for sql in [*(sql for sql, _ in FOLLOWED), *NOT_FOLLOWED, *queries]:
            cursor.execute(sql)
            columns = [column.name for column in cursor.description]
            hidden = hidden_columns(sql, "postgres", columns, PII)
            leaks += [
                f"{column}: {sql}"
                for row in cursor.fetchall()
                for column, value in zip(columns, row, strict=True)
                if "SECRET" in str(value) and column not in hidden
            ]
    return sorted(set(leaks))


def test_what_is_hidden_of_made_up_queries_is_not_always_everything() -> None:
    followed = [tainted_names(sql, "postgres", PII) for sql in made_up_queries(400)]
    assert sum(names is not None for names in followed) > 100
