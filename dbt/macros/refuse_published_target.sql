{#-
    On a target that publishes, readers see only models whose tests passed. dbt alone would replace
    the tables under them, so it is refused there. `on-run-start` in dbt_project.yml calls this; a
    pipeline that builds out of the readers' sight sets the variable.
-#}
{% macro refuse_published_target() -%}
    {%- if execute and not env_var('DBT_ENV_CUSTOM_ENV_MILLRACE_PUBLISHES', '')
        and flags.WHICH in ('run', 'build', 'seed', 'snapshot')
        and adapter.get_relation(
            target.database, target.schema ~ '_publish', 'published_relations') is not none -%}
        {{ exceptions.raise_compiler_error(
            "Target " ~ target.name ~ " publishes: readers see only tested models, and this would replace "
            ~ "the tables under them.\n  fix: uv run millrace run --target " ~ target.name
            ~ ", or build into another target, such as --target dev; documentation/how_to/"
            ~ "publish_a_target.md says how to turn publishing off"
        ) }}
    {%- endif -%}
{%- endmacro %}
