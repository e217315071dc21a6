{#-
    A pull request is built into one schema, whatever schema a model has elsewhere, so that it can
    be dropped as one. `infrastructure.ci.pull_request` sets `one_schema`, and the target's schema to
    `ci_<number>`. Everywhere else it is as dbt has it: <target's schema>_<schema of the model>.
-#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- if var('one_schema', false) -%}
        {{ target.schema }}
    {%- else -%}
        {{ default__generate_schema_name(custom_schema_name, node) }}
    {%- endif -%}
{%- endmacro %}
