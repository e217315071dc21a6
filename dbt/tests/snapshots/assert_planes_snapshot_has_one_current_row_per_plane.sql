-- Intent: the current rows of the history are the registry as it is now: every plane once, no
-- plane that left it, none missing.
with current_rows as (

    select
        tailnum,
        count(*) as row_count
    from {{ ref('planes_snapshot') }}
    where dbt_valid_to is null
    group by tailnum

),

planes as (

    select * from {{ ref('stg_nyc__flights__planes') }}

)

select
    current_rows.row_count,
    coalesce(planes.tail_number, current_rows.tailnum) as tail_number
from planes
full outer join current_rows
    on planes.tail_number = current_rows.tailnum
where
    planes.tail_number is null
    or current_rows.row_count is null
    or current_rows.row_count <> 1
