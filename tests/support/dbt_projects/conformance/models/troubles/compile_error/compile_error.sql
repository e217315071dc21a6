{{ config(materialized='ephemeral') }}

{% if execute %}{{ exceptions.raise_compiler_error('made up') }}{% endif %}
select 1 as id
