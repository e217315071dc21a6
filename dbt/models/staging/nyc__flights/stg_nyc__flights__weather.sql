with source as (

    select * from {{ source('nyc__flights', 'weather') }}

),

final as (

    select
        {{ surrogate_key(['origin', utc_hour_text('time_hour')]) }} as weather_id,
        cast(origin as {{ dbt.type_string() }}) as airport_code,

        temp as temperature_fahrenheit,
        dewp as dew_point_fahrenheit,
        humid as relative_humidity_percent,
        cast(wind_dir as {{ dbt.type_int() }}) as wind_direction_degrees,
        wind_speed as wind_speed_mph,
        wind_gust as wind_gust_mph,
        precip as precipitation_inches,
        pressure as sea_level_pressure_millibars,
        visib as visibility_miles,

        {{ dbt.dateadd(
            'hour',
            'cast(hour as ' ~ dbt.type_int() ~ ')',
            date_from_parts('year', 'month', 'day')
        ) }} as observed_local_at,
        time_hour as observed_at,
        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
