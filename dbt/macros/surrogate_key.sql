{#-
    One hash over several columns. A null and an empty text give different keys, and the
    separator keeps ('a', 'bc') apart from ('ab', 'c').

    Cast timestamps to text with utc_hour_text() first: a plain cast follows the session's time
    zone on Postgres, so the same row would get another key on another machine.
-#}
{% macro surrogate_key(columns) -%}
    {%- set parts = [] -%}
    {%- for column in columns -%}
        {%- do parts.append(
            "coalesce(cast(" ~ column ~ " as " ~ dbt.type_string() ~ "), '_null_')"
        ) -%}
        {%- do parts.append("'|'") if not loop.last -%}
    {%- endfor -%}
    {{ dbt.hash(dbt.concat(parts)) }}
{%- endmacro %}
