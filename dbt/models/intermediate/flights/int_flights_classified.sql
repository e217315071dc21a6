with flights as (

    select * from {{ ref('int_flights_timed') }}

),

with_status as (

    select
        *,
        case
            when departure_clock is null then 'cancelled'
            when arrival_delay_minutes is null then 'diverted_or_unknown'
            else 'arrived'
        end as flight_status
    from flights

),

final as (

    select
        *,
        flight_status = 'cancelled' as is_cancelled,
        flight_status = 'diverted_or_unknown' as is_diverted_or_unknown,
        coalesce(
            flight_status = 'arrived'
            and arrival_delay_minutes < {{ var('on_time_threshold_minutes') }},
            false
        ) as is_on_time
    from with_status

)

select * from final
