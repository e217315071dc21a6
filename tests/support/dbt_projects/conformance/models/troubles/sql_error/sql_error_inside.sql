{{ config(materialized='ephemeral') }}

select * from {{ ref('sql_error_behind') }}
