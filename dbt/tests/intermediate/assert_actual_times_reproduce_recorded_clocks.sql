-- Intent: actual times are computed as schedule plus delay, and the recorded clocks are not used.
-- So the clocks are an independent witness: read on the airport's wall, each computed time must
-- show the recorded hhmm, across midnight too (2400 and 0 are the same minute).
with flights as (

    select * from {{ ref('int_flights_timed') }}

),

minutes_of_day as (

    select
        flight_id,
        mod({{ clock_minutes('departure_clock') }}, 1440) as recorded_departure,
        mod({{ clock_minutes('arrival_clock') }}, 1440) as recorded_arrival,
        extract(hour from actual_departure_local_at) * 60
        + extract(minute from actual_departure_local_at) as computed_departure,
        extract(hour from actual_arrival_local_at) * 60
        + extract(minute from actual_arrival_local_at) as computed_arrival
    from flights

)

-- A departure without a clock has no delay either. An arrival clock without a delay is a flight
-- whose arrival day is unknown: no time is computed for it, so there is nothing to compare.
select *
from minutes_of_day
where
    recorded_departure <> computed_departure
    or (recorded_departure is null) <> (computed_departure is null)
    or recorded_arrival <> computed_arrival
    or (recorded_arrival is null and computed_arrival is not null)
