with weather as (

    select * from {{ ref('stg_nyc__flights__weather') }}

),

bands as (

    select * from {{ ref('weather_bands') }}

),

cleaned as (

    select
        *,
        case
            when wind_speed_mph <= {{ var('max_plausible_wind_speed_mph') }} then wind_speed_mph
        end as plausible_wind_speed_mph,
        coalesce(wind_speed_mph > {{ var('max_plausible_wind_speed_mph') }}, false)
            as has_implausible_wind_speed
    from weather

),

-- Long and back again, because BigQuery allows a range in a left join only beside an equality of
-- two columns.
readings as (

    select
        weather_id,
        'visibility' as weather_measure,
        visibility_miles as reading
    from cleaned

    union all

    select
        weather_id,
        'precipitation' as weather_measure,
        precipitation_inches as reading
    from cleaned

    union all

    select
        weather_id,
        'wind_speed' as weather_measure,
        plausible_wind_speed_mph as reading
    from cleaned

),

band_per_measure as (

    select
        readings.weather_id,
        max(case when bands.weather_measure = 'visibility' then bands.band_id end)
            as visibility_band_id,
        max(case when bands.weather_measure = 'precipitation' then bands.band_id end)
            as precipitation_band_id,
        max(case when bands.weather_measure = 'wind_speed' then bands.band_id end)
            as wind_speed_band_id
    from readings
    left join bands
        on
            readings.weather_measure = bands.weather_measure
            and readings.reading >= bands.lower_bound
            and (readings.reading < bands.upper_bound or bands.upper_bound is null)
    group by readings.weather_id

),

final as (

    select
        cleaned.*,
        coalesce(band_per_measure.visibility_band_id, 'visibility_not_observed')
            as visibility_band_id,
        coalesce(band_per_measure.precipitation_band_id, 'precipitation_not_observed')
            as precipitation_band_id,
        coalesce(band_per_measure.wind_speed_band_id, 'wind_speed_not_observed')
            as wind_speed_band_id
    from cleaned
    left join band_per_measure
        on cleaned.weather_id = band_per_measure.weather_id

)

select * from final
