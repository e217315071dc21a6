{%- set measures = ['visibility', 'precipitation', 'wind_speed'] -%}

with flights as (

    select * from {{ ref('fct_flights') }}

),

weather as (

    select * from {{ ref('fct_weather_hourly') }}

),

bands as (

    select * from {{ ref('weather_bands') }}

),

-- A flight without weather counts as "not observed" in each measure, so no flight is lost.
flights_with_bands as (

    select
        {% for measure in measures %}
        coalesce(weather.{{ measure }}_band_id, '{{ measure }}_not_observed')
            as {{ measure }}_band_id,
        {% endfor %}
        flights.is_cancelled,
        flights.is_diverted_or_unknown,
        flights.is_on_time,
        flights.departure_delay_minutes,
        flights.arrival_delay_minutes
    from flights
    left join weather
        on flights.weather_id = weather.weather_id

),

by_band as (

    {% for measure in measures %}
    select
        {{ measure }}_band_id as band_id,
        {{ flight_measures() | indent(8) }}
    from flights_with_bands
    group by {{ measure }}_band_id
    {% if not loop.last %}union all{% endif %}
    {% endfor %}

),

final as (

    select
        bands.band_id,
        bands.weather_measure,
        bands.band_label,
        bands.sort_order,
        coalesce(by_band.flights, 0) as flights,
        coalesce(by_band.cancelled_flights, 0) as cancelled_flights,
        coalesce(by_band.diverted_or_unknown_flights, 0) as diverted_or_unknown_flights,
        coalesce(by_band.on_time_flights, 0) as on_time_flights,
        by_band.cancellation_rate,
        by_band.on_time_rate,
        by_band.average_departure_delay_minutes,
        by_band.average_arrival_delay_minutes
    from bands
    left join by_band
        on bands.band_id = by_band.band_id

)

select * from final
