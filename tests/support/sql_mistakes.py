"""Mistakes in a small dbt project, each with the place where the check has to report it.

`<*>` stands before the place of both warehouses, `<P>` before that of Postgres, and `<B>` before
that of BigQuery. Where a mistake has no mark of a warehouse, that warehouse has nothing against it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from infrastructure.ci.check_models.template_positions import get_line_and_column

MARKS = {"postgres": ("<*>", "<P>"), "bigquery": ("<*>", "<B>")}
ANY_MARK = re.compile("<[*PB]>")

PROJECT = {
    "name": "mistakes",
    "profile": "millrace",
    "flags": {"send_anonymous_usage_stats": False},
    "models": {"+materialized": "view"},
}
ORDERS = """id,customer,amount,ordered_on,is_paid,note
1,Ada,1.5,2026-01-01,true,x
2,Eve,2.5,2026-01-02,false,y
"""
CUSTOMERS = "customer,code,since\nAda,7,2025-01-01\nEve,8,2025-02-01\n"
SOUND = {
    "dbt_project.yml": yaml.safe_dump(PROJECT),
    "seeds/orders.csv": ORDERS,
    "seeds/customers.csv": CUSTOMERS,
    "macros/macros.sql": """
{% macro doubled(column) %}({{ column }} * 2){% endmacro %}
{% macro total(column) -%}
    sum({{ column }})
{%- endmacro %}
{% test positive(model, column_name) %}
select * from {{ model }} where {{ column_name }} <= 0
{% endtest %}
""",
}


@dataclass(frozen=True)
class Mistake:
    """A mistake in a file of the project.

    Attributes:
        name: name of the model or test.
        text: the file with marks.
        says: part of the message, by warehouse.
        yml: properties of the model, with marks.
        suggests: part of the suggestion of all its warehouses.
        folder: folder of the file.
    """

    name: str
    text: str
    says: dict[str, str]
    yml: str = ""
    suggests: str = ""
    folder: str = "models"

    def files(self) -> dict[str, str]:
        """The marked files of the mistake."""
        files = {f"{self.folder}/{self.name}.sql": self.text}
        if self.yml:
            files[f"models/{self.name}.yml"] = self.yml
        return files

    def place(self, warehouse: str) -> tuple[str, int, int] | None:
        """File, line and column where a warehouse has to report it."""
        for file, text in self.files().items():
            for mark in MARKS[warehouse]:
                if mark in text:
                    before = ANY_MARK.sub("", text.partition(mark)[0])
                    rest = ANY_MARK.sub("", text.partition(mark)[2])
                    return file, *get_line_and_column(before + rest, len(before))
        return None


def both(name: str, text: str, postgres: str, bigquery: str, **more: str) -> Mistake:
    return Mistake(name, text, {"postgres": postgres, "bigquery": bigquery}, **more)


def postgres(name: str, text: str, says: str, **more: str) -> Mistake:
    return Mistake(name, text, {"postgres": says}, **more)


def bigquery(name: str, text: str, says: str, **more: str) -> Mistake:
    return Mistake(name, text, {"bigquery": says}, **more)


ORDERS_CTE = """with orders as (

    select * from {{ ref('orders') }}

)

"""

MISTAKES = [
    # Columns.
    both(
        "misspelt_column",
        ORDERS_CTE + "select\n    id,\n    <*>custmer\nfrom orders\n",
        'column "custmer" does not exist',
        "Unrecognized name: custmer",
        suggests="customer",
    ),
    both(
        "misspelt_column_of_alias",
        ORDERS_CTE + "select <P>orders.<B>amuont from orders\n",
        "column orders.amuont does not exist",
        "Name amuont not found inside orders",
        suggests="amount",
    ),
    both(
        "column_in_loop",
        ORDERS_CTE
        + "select\n    {% for column in ['id', 'amount', 'nott'] %}\n    <*>{{ column }},\n"
        "    {% endfor %}\n    note\nfrom orders\n",
        'column "nott" does not exist',
        "Unrecognized name: nott",
    ),
    both(
        "column_after_if",
        "{% set wide = true %}\n{%- if wide %}\nselect id, note,\n{% else %}\nselect id,\n"
        "{% endif %}\n    <*>notee\nfrom {{ ref('orders') }}\n",
        'column "notee" does not exist',
        "Unrecognized name: notee",
        suggests="note",
    ),
    both(
        "column_in_macro",
        "select\n    id,\n    <*>{{ doubled('amout') }} as twice\nfrom {{ ref('orders') }}\n",
        'column "amout" does not exist',
        "Unrecognized name: amout",
    ),
    both(
        "column_after_comment",
        "{#- A comment with {{ braces }}\n   of two lines. -#}\n-- and of SQL: ü\n"
        "select\n\t<*>idd from {{ ref('orders') }}\n",
        'column "idd" does not exist',
        "Unrecognized name: idd",
    ),
    both(
        "column_that_a_cte_leaves_out",
        "with narrow as (select id from {{ ref('orders') }})\n\n"
        "select <P>narrow.<B>amount from narrow\n",
        "column narrow.amount does not exist",
        "Name amount not found inside narrow",
    ),
    both(
        "misspelt_cte",
        "with orders as (select 1 as id)\n\nselect id from <*>ordrs\n",
        'relation "ordrs" does not exist',
        "Table not found: ordrs",
    ),
    both(
        "ambiguous_column",
        "select\n    <*>customer\nfrom {{ ref('orders') }} as o\n"
        "inner join {{ ref('customers') }} as c on o.customer = c.customer\n",
        'column reference "customer" is ambiguous',
        "Column name customer is ambiguous",
    ),
    both(
        "not_grouped",
        "select customer, <*>note, count(*) as n from {{ ref('orders') }} group by customer\n",
        "must appear in the GROUP BY clause",
        "neither grouped nor aggregated",
    ),
    # Types.
    both(
        "join_of_types",
        "select o.id from {{ ref('orders') }} as o\n"
        "inner join {{ ref('customers') }} as c\n    on <B>o.customer <P>= c.code\n",
        "operator does not exist: text = integer",
        "No matching signature for operator = for argument types: STRING, INT64",
    ),
    both(
        "union_of_types",
        "select id from {{ ref('orders') }}\nunion all\n<B>select <P>customer"
        " from {{ ref('customers') }}\n",
        "UNION types integer and text cannot be matched",
        "incompatible types",
    ),
    both(
        "union_of_other_counts",
        "select id from {{ ref('orders') }}\nunion all\n<B>select <P>customer, code"
        " from {{ ref('customers') }}\n",
        "each UNION query must have the same number of columns",
        "mismatched column count",
    ),
    both(
        "sum_of_text",
        "select <*>sum(customer) as total from {{ ref('orders') }}\n",
        "function sum(text) does not exist",
        "No matching signature for aggregate function SUM",
    ),
    both(
        "macro_on_text",
        "select\n    id\nfrom {{ ref('orders') }}\ngroup by id\n"
        "having <*>{{ total('note') }} > 3\n",
        "function sum(text) does not exist",
        "No matching signature for aggregate function SUM",
    ),
    both(
        "case_of_types",
        "select <B>case when is_paid then <P>id else customer end as x from {{ ref('orders') }}\n",
        "CASE types text and integer cannot be matched",
        "No matching signature for operator CASE",
    ),
    both(
        "where_is_no_condition",
        "select id from {{ ref('orders') }}\nwhere <*>customer\n",
        "argument of WHERE must be type boolean",
        "WHERE clause should return type BOOL",
    ),
    both(
        "unknown_type",
        "select cast(id as <*>bignumber) as id from {{ ref('orders') }}\n",
        'type "bignumber" does not exist',
        "Type not found: bignumber",
    ),
    # Joins and conditions.
    both(
        "join_on_a_missing_column",
        "select o.id from {{ ref('orders') }} as o\n"
        "inner join {{ ref('customers') }} as c on o.customer = <P>c.<B>custome\n",
        "column c.custome does not exist",
        "Name custome not found inside c",
        suggests="customer",
    ),
    both(
        "join_using_a_missing_column",
        "select id from {{ ref('orders') }}\ninner join {{ ref('customers') }} using (<*>note)\n",
        'column "note" specified in USING clause does not exist in right table',
        "Column note in USING clause not found on right side of join",
    ),
    both(
        "in_of_types",
        "select id from {{ ref('orders') }} where customer <*>in (1, 2)\n",
        "operator does not exist: text = integer",
        "No matching signature for operator IN",
    ),
    both(
        "aggregate_in_where",
        "select id from {{ ref('orders') }}\nwhere <*>count(*) > 1\n",
        "aggregate functions are not allowed in WHERE",
        "Aggregate function COUNT(*) not allowed in WHERE clause",
    ),
    both(
        "window_in_where",
        "select id from {{ ref('orders') }}\nwhere <*>row_number() over (order by id) = 1\n",
        "window functions are not allowed in WHERE",
        "Analytic function not allowed in WHERE clause",
    ),
    both(
        "position_that_is_not_there",
        "select id, note from {{ ref('orders') }}\ngroup by 1, 2, <*>3\n",
        "GROUP BY position 3 is not in select list",
        "GROUP BY is out of SELECT column number range: 3",
    ),
    both(
        "function_of_other_types",
        "select <*>lower(id) as name from {{ ref('orders') }}\n",
        "function lower(integer) does not exist",
        "No matching signature for function LOWER",
    ),
    both(
        "coalesce_of_types",
        "select <B>coalesce(id, <P>customer) as x from {{ ref('orders') }}\n",
        "COALESCE types integer and text cannot be matched",
        "No matching signature for function COALESCE",
    ),
    # Syntax and functions.
    both(
        "comma_before_from",
        "select\n    id,\n    note,\n<P>from {{ ref('orders') }}\n",
        'syntax error at or near "from"',
        "Syntax error",
    ),
    both(
        "unknown_function",
        "select <*>uper(customer) as name from {{ ref('orders') }}\n",
        "function uper(text) does not exist",
        "Function not found: uper",
    ),
    both(
        "wrong_count_of_arguments",
        "select <B>nullif(id<P>) as id from {{ ref('orders') }}\n",
        "syntax error",
        "No matching signature for function NULLIF",
    ),
    bigquery(
        "function_of_postgres",
        "select <B>to_char(ordered_on, 'YYYY') as year from {{ ref('orders') }}\n",
        "Function not found: to_char",
    ),
    bigquery(
        "cast_of_postgres",
        "select id<B>::text as id from {{ ref('orders') }}\n",
        "Syntax error",
    ),
    bigquery(
        "reserved_word",
        "select 1 as <B>hash\n",
        "Unexpected keyword HASH",
    ),
    bigquery(
        "date_against_timestamp",
        "select id from {{ ref('orders') }} where <B>ordered_on < current_timestamp\n",
        "No matching signature for operator <",
    ),
    bigquery("type_of_postgres", "select cast('1' as <B>text) as x\n", "Type not found: text"),
    bigquery(
        "integer_against_text",
        "select id from {{ ref('orders') }} where <B>id = '1'\n",
        "No matching signature for operator =",
    ),
    bigquery("column_without_name", "<B>select 1\n", "column 1 has no name"),
    postgres(
        "function_of_bigquery",
        "select <P>safe_divide(amount, 2) as half from {{ ref('orders') }}\n",
        "function safe_divide(double precision, integer) does not exist",
    ),
    postgres(
        "type_of_bigquery",
        "select cast(customer as <P>string) as customer from {{ ref('orders') }}\n",
        'type "string" does not exist',
    ),
    postgres(
        "except_of_bigquery",
        "select * except (<P>note) from {{ ref('orders') }}\n",
        "syntax error",
    ),
    postgres(
        "qualify",
        "select id from {{ ref('orders') }}\nwhere true\n"
        "<P>qualify row_number() over (partition by customer order by id) = 1\n",
        "syntax error",
    ),
    # Contracts, documented columns, tests.
    both(
        "contract_of_other_type",
        "select id, customer from {{ ref('orders') }}\n",
        "the contract says that customer is integer",
        "the contract says that customer is INT64",
        yml="""models:
  - name: contract_of_other_type
    config: {contract: {enforced: true}}
    columns:
      - name: id
        data_type: "{{ 'int64' if target.type == 'bigquery' else 'integer' }}"
      - name: <*>customer
        data_type: "{{ 'int64' if target.type == 'bigquery' else 'integer' }}"
""",
    ),
    both(
        "contract_lacks_a_column",
        "select id, code, customer from (select 1 as id, 2 as code, 'x' as customer) as q\n",
        "returns the column customer",
        "returns the column customer",
        yml="""models:
  - name: <*>contract_lacks_a_column
    config: {contract: {enforced: true}}
    columns:
      - {name: id, data_type: integer}
      - {name: code, data_type: integer}
""",
        suggests="add it under columns",
    ),
    both(
        "contract_has_a_column_too_many",
        "select 1 as id\n",
        "the contract has the column total",
        "the contract has the column total",
        yml="""models:
  - name: contract_has_a_column_too_many
    config: {contract: {enforced: true}}
    columns:
      - {name: id, data_type: integer}
      - {name: <*>total, data_type: integer}
""",
    ),
    both(
        "contract_of_no_type",
        "select 1 as id\n",
        "strng is no type of postgres",
        "strng is no type of bigquery",
        yml="""models:
  - name: contract_of_no_type
    config: {contract: {enforced: true}}
    columns:
      - {name: id, data_type: <*>strng}
""",
    ),
    both(
        "documented_column",
        "select id, customer from {{ ref('orders') }}\n",
        "YAML documents the column custmer",
        "YAML documents the column custmer",
        yml="""models:
  - name: documented_column
    columns:
      - name: id
      - name: <*>custmer
        data_tests: [not_null, unique]
""",
        suggests="did you mean customer?",
    ),
    both(
        "test_of_a_text",
        "select id, customer from {{ ref('orders') }}\n",
        "operator does not exist: text <= integer",
        "No matching signature for operator <=",
        yml="""models:
  - name: test_of_a_text
    columns:
      - name: customer
        data_tests:
          - <*>positive
""",
    ),
    both(
        "relationship_to_a_missing_column",
        "select customer from {{ ref('orders') }}\n",
        'column "nane" does not exist',
        "nane",
        yml="""models:
  - name: relationship_to_a_missing_column
    columns:
      - name: customer
        data_tests:
          - <*>relationships:
              arguments: {to: ref('customers'), field: nane}
""",
    ),
    both(
        "singular_test",
        "-- Intent: no order without a customer.\nselect id\nfrom {{ ref('orders') }}\n"
        "where <*>custoner is null\n",
        'column "custoner" does not exist',
        "Unrecognized name: custoner",
        folder="tests",
        suggests="customer",
    ),
    both(
        "analysis",
        "select id, <*>amont\nfrom {{ ref('orders') }};\n",
        'column "amont" does not exist',
        "Unrecognized name: amont",
        folder="analyses",
    ),
    both(
        "later_run",
        "{{ config(materialized='incremental') }}\nselect id, ordered_on from {{ ref('orders') }}\n"
        "{% if is_incremental() %}\nwhere ordered_on > (select max(<*>orderd_on) from {{ this }})\n"
        "{% endif %}\n",
        'column "orderd_on" does not exist',
        "Unrecognized name: orderd_on",
    ),
    both(
        "ephemeral_parent",
        "select id, <*>twise from {{ ref('sound_ephemeral') }}\n",
        'column "twise" does not exist',
        "Unrecognized name: twise",
        suggests="twice",
    ),
    both(
        "error_of_a_template",
        "select id,\n<*>    {{ exceptions.raise_compiler_error('no such year') if execute }}\n"
        "from {{ ref('orders') }}\n",
        "no such year",
        "no such year",
    ),
]
SOUND |= {
    "models/sound_ephemeral.sql": "{{ config(materialized='ephemeral') }}\n"
    "select id, {{ doubled('amount') }} as twice from {{ ref('orders') }}\n",
    "models/sound_pivot.sql": "select\n"
    "    {% for name in ['Ada', 'Eve'] %}\n"
    "    sum(case when customer = '{{ name }}' then amount end) as of_{{ name | lower }}"
    "{{ ',' if not loop.last }}\n"
    "    {% endfor %}\n"
    "from {{ ref('orders') }}\n",
}


def write_project(folder: Path) -> None:
    """Write the dbt project with all its mistakes, and without the marks."""
    files = dict(SOUND)
    for mistake in MISTAKES:
        files |= mistake.files()
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(ANY_MARK.sub("", text), encoding="utf-8")
