-- Intent: the same departure is recorded three times, as hhmm, as hour and minute, and as a UTC
-- hour. They must say the same in the origin's time zone, or every time derived from them is
-- wrong by whole hours.
with flights as (

    select * from {{ ref('stg_nyc__flights__flights') }}

),

airports as (

    select * from {{ ref('stg_nyc__flights__airports') }}

),

final as (

    select
        flights.flight_id,
        flights.scheduled_departure_clock,
        {{ utc_to_local('flights.scheduled_departure_hour_at', 'airports.time_zone') }}
            as local_hour_from_utc,
        {{ dbt.dateadd('hour', 'flights.scheduled_departure_hour', 'flights.flight_date') }}
            as local_hour_as_recorded,
        flights.scheduled_departure_hour * 100 + flights.scheduled_departure_minute
            as clock_from_parts
    from flights
    left join airports
        on flights.origin_airport_code = airports.airport_code

)

select *
from final
where
    scheduled_departure_clock <> clock_from_parts
    or local_hour_from_utc is null
    or local_hour_from_utc <> local_hour_as_recorded
