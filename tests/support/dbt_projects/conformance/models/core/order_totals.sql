{{ config(materialized='table', schema='marts', indexes=[{'columns': ['customer_id']}], cluster_by='customer_id') }}

select
    customer_id,
    cast(count(*) as integer) as order_count,
    cast(sum(amount) as numeric(12, 2)) as amount
from {{ ref('large_orders') }}
group by customer_id
