"""Queries over tables with personal data, from the plain to the sly; in Postgres' SQL.

Table `people` has `id`, `email`, `name`, `profile` (jsonb with the address); `orders` has `id`,
`people_id`, `status`. Only `email` and `profile` are marked. Every value of them holds `SECRET`.
"""

from __future__ import annotations

PII = frozenset({"email", "profile"})
TABLES = """
create temporary table people as
select i as id, 'SECRET' || i || '@example.org' as email, 'n' || i % 3 as name,
       jsonb_build_object('contact', 'SECRET' || i) as profile
from generate_series(1, 6) as i;
create temporary table orders as
select i as id, i as people_id, 's' || i as status from generate_series(1, 8) as i;
"""
# What dbt's generic tests compile to, and the tests that people write: (query, columns to hide).
FOLLOWED = [
    ("select email as unique_field, count(*) as n_records from people group by email",
     {"unique_field"}),
    ("select id from people where email is not null", set()),
    ("with all_values as (select email as value_field, count(*) as n_records from people "
     "group by email) select * from all_values where value_field not in ('a', 'b')",
     {"value_field"}),
    ("with child as (select email as from_field from people where email is not null), "
     "parent as (select status as to_field from orders) select from_field from child "
     "left join parent on child.from_field = parent.to_field where parent.to_field is null",
     {"from_field"}),
    ("select * from people", {"email", "profile"}),
    ("select p.*, o.status from people as p left join orders as o on o.people_id = p.id",
     {"email", "profile"}),
    ("select upper(email) as shout, id from people", {"shout"}),
    ("select id, name || ' <' || email || '>' as label from people", {"label"}),
    ("select case when id > 2 then email else name end as who, id from people", {"who"}),
    ("select max(email) as latest, name from people group by name", {"latest"}),
    ("select string_agg(email, ',') over (order by id) as so_far, id from people", {"so_far"}),
    ("with a as (select email as b, id from people), c as (select b as d, id from a) "
     "select d as e, id from c", {"e"}),
    ("select x.y as z, x.id from (select email as y, id from people) as x", {"z"}),
    ("select name as a, id as b from people union all select email, id from people", {"a"}),
    ("(select id as a, name as b from people) union all (select id, email from people) order by 1",
     {"b"}),
    ("with u as (select name as a from people union select email from people) select a as q from u",
     {"q"}),
    ("with recursive r as (select id as n, email as v from people where id = 1 union all "
     "select n + 1, v from r where n < 3) select n, v as w from r", {"w"}),
    ("select (select p.email from people as p where p.id = o.people_id) as found, o.id "
     "from orders as o", {"found"}),
    ("select id, profile ->> 'contact' as contact from people", {"contact"}),
    ('select email as "E Mail", id from people', {"E Mail"}),
    ('select id, EMAIL as "X" from PEOPLE', {"X"}),
    ("select id, row_to_json(people) as everything from people", {"everything"}),
    ("select id, p as whole from people as p", {"whole"}),
    ("select id, p::text as whole from people as p", {"whole"}),
    ("select id, row(p.*)::text as whole from people as p", {"whole"}),
    ("select id, to_jsonb(people.*) as whole from people", {"whole"}),
    ("select id, (p).email as mail, email(p) as again from people as p", {"mail", "again"}),
    ("select count(*) as n, count(p.*) as m from people as p", {"m"}),
    ("select array(select email from people)::text as all_of_them, 1 as one", {"all_of_them"}),
    ("select id, x.v from people cross join (values (1), (2)) as w "
     "left join (select id as k, email as v from people) as x on x.k = people.id", {"v"}),
    (f"select id, email as {'a' * 80} from people", {"a" * 63}),
    ("select id, nullif(email, '') as maybe, coalesce(name, email) as named from people",
     {"maybe", "named"}),
    ("with email_of as (select id, email as m from people) "
     "select e.id, lower(trim(e.m)) as n from email_of as e", {"n"}),
    ("select distinct on (email) id, name from people", set()),
    ("select id, lag(email) over w as before from people window w as (order by id)", {"before"}),
    ("select id from people except select people_id from orders", set()),
    ("select id, regexp_replace(email, '@.*', '') as local_part from people", {"local_part"}),
    ("table people", {"email", "profile"}),
]  # fmt: skip
# What cannot be followed: every column is hidden.
NOT_FOLLOWED = [
    "with x(a, b) as (select id, email from people) select a, b from x",
    "select a, b from (select id, email from people) as x(a, b)",
    "select u.a, u.b from people as u(a, b, c, d)",
    "select id, max(email) from people group by id",
    "select id, email::varchar(20) from people",
    "select id, coalesce(email, name) from people",
    "select id, (select email from people limit 1) from people",
    "select p from people as p",
    "select to_jsonb(p) from people as p",
    "select * from orders union all select id, id, email from people",
    "select id, k, v from people, lateral (select email as k, id as v) as l",
    "select id, e from people, unnest(array[email]) as e",
    "select e.* from people, unnest(array[email]) as e",
    "select key, value from people, jsonb_each_text(profile)",
    "select * from jsonb_to_recordset((select jsonb_agg(p) from people as p)) as x(email text)",
    "select * from (values ((select email from people where id = 1))) as v",
    "with recursive r as (select id, email from people where id = 1 union all select r.id + 1, "
    "r.email from r where r.id < 3) search depth first by id, email set ordering "
    "select id, ordering from r",
    "with r as (select id, jsonb_agg(email) over () from people) select * from r",
    "values ('SECRET')",
    'select id, U&"\\0065mail" as harmless from people',
    "select id, array_agg(email) from people group by id",
    "select id, (p).* from people as p",
]
