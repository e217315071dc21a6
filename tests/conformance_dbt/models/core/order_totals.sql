{{ config(materialized='table', schema='marts', indexes=[{'columns': ['customer_id']}]) }}

select
    customer_id,
    count(*)::integer as order_count,
    sum(amount)::numeric(12, 2) as amount
from {{ ref('large_orders') }}
group by customer_id
