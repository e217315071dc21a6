with flights as (

    select * from {{ ref('stg_nyc__flights__flights') }}

),

airports as (

    select * from {{ ref('stg_nyc__flights__airports') }}

),

-- Arrival clocks carry no date. One that reads earlier than the departure clock is the next day:
-- no flight here is long enough for a second midnight, nor short enough to land before it left.
scheduled as (

    select
        flights.*,
        origins.time_zone as origin_time_zone,
        destinations.time_zone as destination_time_zone,
        {{ clock_minutes('flights.scheduled_departure_clock') }} as departure_minutes_of_day,
        {{ clock_minutes('flights.scheduled_arrival_clock') }}
        + case
            when flights.scheduled_arrival_clock < flights.scheduled_departure_clock then 1440
            else 0
        end as arrival_minutes_of_day,
        {{ add_minutes(
            'flights.scheduled_departure_hour_at', 'flights.scheduled_departure_minute'
        ) }} as scheduled_departure_at
    from flights
    left join airports as origins
        on flights.origin_airport_code = origins.airport_code
    left join airports as destinations
        on flights.destination_airport_code = destinations.airport_code

),

local_times as (

    select
        *,
        {{ dbt.dateadd('minute', 'departure_minutes_of_day', 'flight_date') }}
            as scheduled_departure_local_at,
        {{ dbt.dateadd('minute', 'arrival_minutes_of_day', 'flight_date') }}
            as scheduled_arrival_local_at,
        {{ add_minutes('scheduled_departure_at', 'departure_delay_minutes') }}
            as actual_departure_at
    from scheduled

),

-- Actual times are schedule plus delay: the recorded clocks lost their date, the delays did not.
instants as (

    select
        *,
        {{ utc_to_local('actual_departure_at', 'origin_time_zone') }} as actual_departure_local_at,
        {{ dbt.dateadd('minute', 'arrival_delay_minutes', 'scheduled_arrival_local_at') }}
            as actual_arrival_local_at,
        {{ local_to_utc('scheduled_arrival_local_at', 'destination_time_zone') }}
            as scheduled_arrival_at
    from local_times

),

final as (

    select
        *,
        {{ add_minutes('scheduled_arrival_at', 'arrival_delay_minutes') }} as actual_arrival_at,
        {{ minutes_between('scheduled_departure_at', 'scheduled_arrival_at') }}
            as scheduled_elapsed_minutes,
        {{ minutes_between('scheduled_departure_at', 'scheduled_arrival_at') }}
        - departure_delay_minutes + arrival_delay_minutes as actual_elapsed_minutes
    from instants

)

select * from final
