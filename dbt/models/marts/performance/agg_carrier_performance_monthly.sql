with flights as (

    select * from {{ ref('fct_flights') }}

),

airlines as (

    select * from {{ ref('dim_airlines') }}

),

dates as (

    select * from {{ ref('dim_dates') }}

),

-- Its own step: in `group by flights.…` BigQuery reads the measure `flights`, not the table.
flights_with_month as (

    select
        flights.*,
        dates.month_start_date
    from flights
    left join dates
        on flights.flight_date = dates.date_day

),

by_carrier_and_month as (

    select
        carrier_code,
        month_start_date,
        {{ flight_measures() | indent(8) }}
    from flights_with_month
    group by carrier_code, month_start_date

),

final as (

    select
        {{ surrogate_key([
            'by_carrier_and_month.carrier_code', 'by_carrier_and_month.month_start_date'
        ]) }} as carrier_month_id,
        by_carrier_and_month.carrier_code,
        airlines.carrier_name,
        by_carrier_and_month.flights,
        by_carrier_and_month.cancelled_flights,
        by_carrier_and_month.diverted_or_unknown_flights,
        by_carrier_and_month.on_time_flights,
        by_carrier_and_month.cancellation_rate,
        by_carrier_and_month.on_time_rate,
        by_carrier_and_month.average_departure_delay_minutes,
        by_carrier_and_month.average_arrival_delay_minutes,
        by_carrier_and_month.month_start_date
    from by_carrier_and_month
    left join airlines
        on by_carrier_and_month.carrier_code = airlines.carrier_code

)

select * from final
