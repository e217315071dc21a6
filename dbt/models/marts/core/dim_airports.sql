with airports as (

    select * from {{ ref('stg_nyc__flights__airports') }}

),

-- Flights to an airport the list does not hold point at a member of their own.
members as (

    select airport_code as airport_key from airports
    union all
    select 'not_listed'

),

final as (

    select
        members.airport_key,
        airports.airport_code,
        coalesce(airports.airport_name, 'Not in the list of airports') as airport_name,
        airports.time_zone,
        airports.daylight_saving_code,
        airports.altitude_feet,
        airports.standard_utc_offset_hours,
        airports.latitude,
        airports.longitude,
        airports.airport_code is not null as is_listed
    from members
    left join airports
        on members.airport_key = airports.airport_code

)

select * from final
