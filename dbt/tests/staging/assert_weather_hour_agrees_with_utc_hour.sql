-- Intent: flights meet weather on the UTC hour. If that hour and the recorded local hour disagree,
-- every flight would be given the weather of another hour without any join failing.
with weather as (

    select * from {{ ref('stg_nyc__flights__weather') }}

),

airports as (

    select * from {{ ref('stg_nyc__flights__airports') }}

),

final as (

    select
        weather.weather_id,
        weather.observed_local_at,
        {{ utc_to_local('weather.observed_at', 'airports.time_zone') }} as local_hour_from_utc
    from weather
    left join airports
        on weather.airport_code = airports.airport_code

)

select *
from final
where local_hour_from_utc is null or local_hour_from_utc <> observed_local_at
