{{ config(materialized='ephemeral') }}
select order_id, customer_id from {{ ref('measured') }} where order_id > 1
