with source as (

    select * from {{ source('nyc__flights', 'flights') }}

),

final as (

    select
        {{ surrogate_key([utc_hour_text('time_hour'), 'carrier', 'flight']) }} as flight_id,
        cast(carrier as {{ dbt.type_string() }}) as carrier_code,
        cast(flight as {{ dbt.type_int() }}) as flight_number,
        cast(tailnum as {{ dbt.type_string() }}) as tail_number,
        cast(origin as {{ dbt.type_string() }}) as origin_airport_code,
        cast(dest as {{ dbt.type_string() }}) as destination_airport_code,

        cast(sched_dep_time as {{ dbt.type_int() }}) as scheduled_departure_clock,
        cast(hour as {{ dbt.type_int() }}) as scheduled_departure_hour,
        cast(minute as {{ dbt.type_int() }}) as scheduled_departure_minute,
        cast(dep_time as {{ dbt.type_int() }}) as departure_clock,
        cast(sched_arr_time as {{ dbt.type_int() }}) as scheduled_arrival_clock,
        cast(arr_time as {{ dbt.type_int() }}) as arrival_clock,
        cast(dep_delay as {{ dbt.type_int() }}) as departure_delay_minutes,
        cast(arr_delay as {{ dbt.type_int() }}) as arrival_delay_minutes,
        cast(air_time as {{ dbt.type_int() }}) as air_time_minutes,
        cast(distance as {{ dbt.type_int() }}) as distance_miles,

        {{ date_from_parts('year', 'month', 'day') }} as flight_date,

        time_hour as scheduled_departure_hour_at,
        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
