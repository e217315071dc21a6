{{ config(
    materialized='incremental',
    incremental_strategy='microbatch',
    unique_key='event_id',
    event_time='happened_at',
    batch_size='day',
    partition_by={'field': 'happened_at', 'data_type': 'timestamp', 'granularity': 'day'},
    begin=var('begin', '2026-01-01'),
) }}

-- One batch holds a value that cannot be divided by: a partial success.
select
    event_id,
    happened_at,
    100 / divisor as quotient
from {{ source('raw', 'events') }}
