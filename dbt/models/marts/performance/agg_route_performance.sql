with flights as (

    select * from {{ ref('fct_flights') }}

),

airports as (

    select * from {{ ref('dim_airports') }}

),

by_route as (

    select
        origin_airport_code,
        destination_airport_code,
        destination_airport_key,
        count(distinct carrier_code) as carriers,
        max(distance_miles) as distance_miles,
        {{ flight_measures() | indent(8) }},
        cast(avg(air_time_minutes) as {{ dbt.type_float() }}) as average_air_time_minutes
    from flights
    group by origin_airport_code, destination_airport_code, destination_airport_key

),

final as (

    select
        {{ dbt.concat([
            'by_route.origin_airport_code', "'-'", 'by_route.destination_airport_code'
        ]) }} as route_id,
        by_route.origin_airport_code,
        by_route.destination_airport_code,
        airports.airport_name as destination_airport_name,
        by_route.carriers,
        by_route.distance_miles,
        by_route.flights,
        by_route.cancelled_flights,
        by_route.diverted_or_unknown_flights,
        by_route.on_time_flights,
        by_route.cancellation_rate,
        by_route.on_time_rate,
        by_route.average_departure_delay_minutes,
        by_route.average_arrival_delay_minutes,
        by_route.average_air_time_minutes,
        airports.is_listed as is_destination_listed
    from by_route
    left join airports
        on by_route.destination_airport_key = airports.airport_key

)

select * from final
