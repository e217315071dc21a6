{#-
    The measures of every aggregate over fct_flights. Written once, so that "on time" cannot come
    to mean two things in two marts.

    The rates divide by all scheduled flights, cancelled and diverted ones included. The average
    delays cover the flights that departed, and those that arrived: the others have no delay.
-#}
{% macro flight_measures() -%}
    count(*) as flights,
    count(case when is_cancelled then 1 end) as cancelled_flights,
    count(case when is_diverted_or_unknown then 1 end) as diverted_or_unknown_flights,
    count(case when is_on_time then 1 end) as on_time_flights,
    {{ rate('count(case when is_cancelled then 1 end)', 'count(*)') }} as cancellation_rate,
    {{ rate('count(case when is_on_time then 1 end)', 'count(*)') }} as on_time_rate,
    cast(avg(departure_delay_minutes) as {{ dbt.type_float() }}) as average_departure_delay_minutes,
    cast(avg(arrival_delay_minutes) as {{ dbt.type_float() }}) as average_arrival_delay_minutes
{%- endmacro %}


{#- A share between 0 and 1; null where there is nothing to divide by. -#}
{% macro rate(numerator, denominator) -%}
    cast({{ numerator }} as {{ dbt.type_float() }}) / nullif({{ denominator }}, 0)
{%- endmacro %}
