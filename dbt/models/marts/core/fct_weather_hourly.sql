with weather as (

    select * from {{ ref('int_weather_banded') }}

),

final as (

    select
        weather_id,
        airport_code,
        visibility_band_id,
        precipitation_band_id,
        wind_speed_band_id,
        wind_direction_degrees,
        temperature_fahrenheit,
        dew_point_fahrenheit,
        relative_humidity_percent,
        plausible_wind_speed_mph as wind_speed_mph,
        wind_gust_mph,
        precipitation_inches,
        sea_level_pressure_millibars,
        visibility_miles,
        has_implausible_wind_speed,
        cast(observed_local_at as date) as observed_date,
        observed_local_at,
        observed_at,
        _loaded_at
    from weather

)

select * from final
