{#-
    Time, in the two kinds this project keeps apart:

    - an instant, column `…_at`: timestamptz on Postgres, timestamp on BigQuery;
    - a local clock reading, column `…_local_at`: timestamp on Postgres, datetime on BigQuery.

    dbt's own dateadd and datediff turn an instant into a clock reading (BigQuery) or count in the
    session's time zone (Postgres). They serve for local readings here; for instants use
    add_minutes and minutes_between below.
-#}

{% macro utc_to_local(instant, time_zone) -%}
    {{ return(adapter.dispatch('utc_to_local')(instant, time_zone)) }}
{%- endmacro %}

{% macro default__utc_to_local(instant, time_zone) -%}
    ({{ instant }} at time zone {{ time_zone }})
{%- endmacro %}

{% macro bigquery__utc_to_local(instant, time_zone) -%}
    datetime({{ instant }}, {{ time_zone }})
{%- endmacro %}


{% macro local_to_utc(local_reading, time_zone) -%}
    {{ return(adapter.dispatch('local_to_utc')(local_reading, time_zone)) }}
{%- endmacro %}

{% macro default__local_to_utc(local_reading, time_zone) -%}
    ({{ local_reading }} at time zone {{ time_zone }})
{%- endmacro %}

{% macro bigquery__local_to_utc(local_reading, time_zone) -%}
    timestamp({{ local_reading }}, {{ time_zone }})
{%- endmacro %}


{% macro add_minutes(instant, minutes) -%}
    {{ return(adapter.dispatch('add_minutes')(instant, minutes)) }}
{%- endmacro %}

{% macro default__add_minutes(instant, minutes) -%}
    ({{ instant }} + {{ minutes }} * interval '1 minute')
{%- endmacro %}

{% macro bigquery__add_minutes(instant, minutes) -%}
    timestamp_add({{ instant }}, interval {{ minutes }} minute)
{%- endmacro %}


{% macro minutes_between(first_instant, second_instant) -%}
    {{ return(adapter.dispatch('minutes_between')(first_instant, second_instant)) }}
{%- endmacro %}

{% macro default__minutes_between(first_instant, second_instant) -%}
    cast(extract(epoch from {{ second_instant }} - {{ first_instant }}) / 60 as integer)
{%- endmacro %}

{% macro bigquery__minutes_between(first_instant, second_instant) -%}
    timestamp_diff({{ second_instant }}, {{ first_instant }}, minute)
{%- endmacro %}


{#- The UTC hour of an instant as text, the same on every machine: '2013-11-03T06'. -#}
{% macro utc_hour_text(instant) -%}
    {{ return(adapter.dispatch('utc_hour_text')(instant)) }}
{%- endmacro %}

{% macro default__utc_hour_text(instant) -%}
    to_char({{ instant }} at time zone 'UTC', 'YYYY-MM-DD"T"HH24')
{%- endmacro %}

{% macro bigquery__utc_hour_text(instant) -%}
    format_timestamp('%Y-%m-%dT%H', {{ instant }}, 'UTC')
{%- endmacro %}


{#- Minutes after midnight of an hhmm integer: 5 -> 5, 1730 -> 1050, 2400 -> 1440. -#}
{% macro clock_minutes(hhmm) -%}
    (cast(floor({{ hhmm }} / 100.0) as {{ dbt.type_int() }}) * 60 + mod({{ hhmm }}, 100))
{%- endmacro %}


{#- dbt.date() takes numbers known at compile time, not columns. -#}
{% macro date_from_parts(year, month, day) -%}
    {{ return(adapter.dispatch('date_from_parts')(year, month, day)) }}
{%- endmacro %}

{% macro default__date_from_parts(year, month, day) -%}
    make_date(cast({{ year }} as integer), cast({{ month }} as integer), cast({{ day }} as integer))
{%- endmacro %}

{% macro bigquery__date_from_parts(year, month, day) -%}
    date({{ year }}, {{ month }}, {{ day }})
{%- endmacro %}


{#- Monday 1 to Sunday 7. -#}
{% macro iso_day_of_week(date_column) -%}
    {{ return(adapter.dispatch('iso_day_of_week')(date_column)) }}
{%- endmacro %}

{% macro default__iso_day_of_week(date_column) -%}
    cast(extract(isodow from {{ date_column }}) as integer)
{%- endmacro %}

{% macro bigquery__iso_day_of_week(date_column) -%}
    mod(extract(dayofweek from {{ date_column }}) + 5, 7) + 1
{%- endmacro %}


{% macro day_name(date_column) -%}
    {{ return(adapter.dispatch('day_name')(date_column)) }}
{%- endmacro %}

{% macro default__day_name(date_column) -%}
    to_char({{ date_column }}, 'FMDay')
{%- endmacro %}

{% macro bigquery__day_name(date_column) -%}
    format_date('%A', {{ date_column }})
{%- endmacro %}
