-- Intent: an incremental run rewrites only the last days. A flight that arrives later than that,
-- changes, or is withdrawn at the source must not be lost in silence: this fails, and
-- `dbt run --full-refresh --select fct_flights+` fixes it.
with staged as (

    select * from {{ ref('stg_nyc__flights__flights') }}

),

stored as (

    select * from {{ ref('fct_flights') }}

)

select
    coalesce(staged.flight_id, stored.flight_id) as flight_id,
    case
        when stored.flight_id is null then 'missing from fct_flights'
        when staged.flight_id is null then 'withdrawn at the source'
        else 'changed since it was stored'
    end as difference
from staged
full outer join stored
    on staged.flight_id = stored.flight_id
where
    staged.flight_id is null
    or stored.flight_id is null
    or coalesce(staged.departure_delay_minutes, -9999)
    <> coalesce(stored.departure_delay_minutes, -9999)
    or coalesce(staged.arrival_delay_minutes, -9999)
    <> coalesce(stored.arrival_delay_minutes, -9999)
    or coalesce(staged.tail_number, '') <> coalesce(stored.tail_number, '')
    or staged.destination_airport_code <> stored.destination_airport_code
