{% macro count_hook(kind) %}
insert into {{ target.schema }}_raw.hook_log (hook, command, target) values ('{{ kind }}', '{{ flags.WHICH }}', '{{ target.name }}')
{% endmacro %}


{# The statement when the trouble is switched on, and one that does nothing otherwise. #}
{% macro in_trouble(trouble, statement) %}
{{ statement if trouble in var('troubles') else 'select 1' }}
{% endmacro %}


{% test at_most(model, column_name, value) %}
select {{ column_name }} from {{ model }} where {{ column_name }} > {{ value }}
{% endtest %}


{% test not_below(model, column, value) %}
select * from {{ model }} where not coalesce({{ column }} >= {{ value }}, false)
{% endtest %}


{# dbt parses it, and the database does not. #}
{% test misspelled(model) %}
selekt * from {{ model }}
{% endtest %}

{% test at_rest(model, seconds) %}
select 1 as id where pg_sleep({{ seconds }}) is null
{% endtest %}
