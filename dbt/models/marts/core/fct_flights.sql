{#-
    Late and corrected rows: each run rewrites the last days, see fct_flights_lookback_days.
    Postgres replaces row by row on flight_id. BigQuery replaces whole days, which are its
    partitions: the lookback rewrites whole days anyway, and no older partition is scanned.
-#}
{{ config(
    materialized='incremental',
    unique_key='flight_id',
    incremental_strategy='insert_overwrite' if target.type == 'bigquery' else 'delete+insert',
    partition_by={'field': 'flight_date', 'data_type': 'date'} if target.type == 'bigquery' else none,
    cluster_by=['carrier_code', 'origin_airport_key'] if target.type == 'bigquery' else none,
    on_schema_change='fail',
) }}

with flights as (

    select * from {{ ref('int_flights_matched') }}

    {% if is_incremental() %}
    where
        flight_date >= (
            select
                cast({{ dbt.dateadd(
                    'day', -var('fct_flights_lookback_days'), 'max(flight_date)'
                ) }} as date)
            from {{ this }}
        )
    {% endif %}

),

final as (

    select
        flight_id,
        carrier_code,
        plane_key,
        origin_airport_key,
        destination_airport_key,
        weather_id,
        flight_number,
        tail_number,
        origin_airport_code,
        destination_airport_code,
        flight_status,
        departure_delay_minutes,
        arrival_delay_minutes,
        scheduled_elapsed_minutes,
        actual_elapsed_minutes,
        air_time_minutes,
        distance_miles,
        is_cancelled,
        is_diverted_or_unknown,
        is_on_time,
        has_weather,
        flight_date,
        scheduled_departure_local_at,
        scheduled_arrival_local_at,
        actual_departure_local_at,
        actual_arrival_local_at,
        scheduled_departure_at,
        scheduled_arrival_at,
        actual_departure_at,
        actual_arrival_at,
        _loaded_at
    from flights

)

select * from final
