with flights as (

    select * from {{ ref('int_flights_classified') }}

),

planes as (

    select * from {{ ref('stg_nyc__flights__planes') }}

),

airports as (

    select * from {{ ref('stg_nyc__flights__airports') }}

),

weather as (

    select * from {{ ref('stg_nyc__flights__weather') }}

),

-- Every join keeps every flight. Weather is matched on the UTC hour: the local hour repeats when
-- daylight saving time ends.
final as (

    select
        flights.*,
        case
            when flights.tail_number is null then 'not_recorded'
            when planes.tail_number is null then 'not_listed'
            else flights.tail_number
        end as plane_key,
        coalesce(origins.airport_code, 'not_listed') as origin_airport_key,
        coalesce(destinations.airport_code, 'not_listed') as destination_airport_key,
        weather.weather_id,
        weather.weather_id is not null as has_weather
    from flights
    left join planes
        on flights.tail_number = planes.tail_number
    left join airports as origins
        on flights.origin_airport_code = origins.airport_code
    left join airports as destinations
        on flights.destination_airport_code = destinations.airport_code
    left join weather
        on
            flights.origin_airport_code = weather.airport_code
            and flights.scheduled_departure_hour_at = weather.observed_at

)

select * from final
