-- Intent: catch a wrong time zone or a missed midnight. Time from gate to gate includes taxiing,
-- so it exceeds the recorded time in the air: by 5 to 235 minutes in 2013. One hour lost to a time
-- zone breaks this for nearly every flight to that airport, a lost day for all of them.
select
    flight_id,
    destination_airport_code,
    air_time_minutes,
    actual_elapsed_minutes
from {{ ref('int_flights_timed') }}
where
    actual_elapsed_minutes <= air_time_minutes
    or actual_elapsed_minutes > air_time_minutes + 360
