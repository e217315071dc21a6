{# Seeds are the raw data of all targets; other schemas carry the target's name, not its schema. #}
{% macro generate_schema_name(custom_schema_name, node) %}
    {% if node.resource_type == 'seed' %}
        {{ custom_schema_name | trim }}
    {% elif custom_schema_name is none %}
        {{ target.schema }}
    {% else %}
        {{ target.name }}_{{ custom_schema_name | trim }}
    {% endif %}
{% endmacro %}
