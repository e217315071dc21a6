{{ config(tags=['draft']) }}
select count(*) as orders from {{ ref('stg_orders') }}
