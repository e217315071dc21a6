{{ config(materialized='incremental', unique_key='order_id', schema='marts') }}

-- How often a row was written tells a run that adds from one that builds anew.
select
    order_id,
    amount,
    {{ 2 if is_incremental() else 1 }} as written_by_run
from {{ ref('orders') }}
{% if is_incremental() %}
where updated_at > {{ dbt.dateadd('hour', -1, "(select max(updated_at) from " ~ ref('orders') ~ ")") }}
{% endif %}
