-- Intent: each aggregate splits all flights into groups, so its groups must add up to the flights
-- of the fact, and to its on-time flights. A join that drops or doubles rows shows here.
with expected as (

    select
        count(*) as flights,
        count(case when is_on_time then 1 end) as on_time_flights
    from {{ ref('fct_flights') }}

),

counted as (

    select
        'agg_carrier_performance_monthly' as aggregate_name,
        sum(flights) as flights,
        sum(on_time_flights) as on_time_flights
    from {{ ref('agg_carrier_performance_monthly') }}

    union all

    select
        'agg_route_performance' as aggregate_name,
        sum(flights) as flights,
        sum(on_time_flights) as on_time_flights
    from {{ ref('agg_route_performance') }}

    union all

    select
        {{ dbt.concat(["'agg_delay_by_weather: '", 'weather_measure']) }} as aggregate_name,
        sum(flights) as flights,
        sum(on_time_flights) as on_time_flights
    from {{ ref('agg_delay_by_weather') }}
    group by weather_measure

)

select
    counted.aggregate_name,
    counted.flights,
    counted.on_time_flights,
    expected.flights as expected_flights,
    expected.on_time_flights as expected_on_time_flights
from counted
cross join expected
where
    counted.flights <> expected.flights
    or counted.on_time_flights <> expected.on_time_flights
