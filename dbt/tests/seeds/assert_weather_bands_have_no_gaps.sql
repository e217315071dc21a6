-- Intent: edits of the bands must not open a gap (readings would pass for "not observed") or
-- an overlap (a reading would get one of two bands by chance). Each measure starts at zero, goes
-- on where the band before ended, has one open end, and one band for "not observed".
with bands as (

    select * from {{ ref('weather_bands') }}
    where lower_bound is not null

),

neighbours as (

    select
        band_id,
        weather_measure,
        lower_bound,
        upper_bound,
        lag(upper_bound) over (partition by weather_measure order by sort_order) as previous_upper,
        row_number() over (partition by weather_measure order by sort_order) as position_up,
        row_number() over (partition by weather_measure order by sort_order desc) as position_down
    from bands

),

broken_bands as (

    select band_id as problem
    from neighbours
    where
        (position_up = 1 and lower_bound <> 0)
        or (position_up > 1 and (previous_upper is null or previous_upper <> lower_bound))
        or (position_down = 1 and upper_bound is not null)
        or upper_bound <= lower_bound

),

broken_measures as (

    select weather_measure as problem
    from {{ ref('weather_bands') }}
    group by weather_measure
    having
        count(case when lower_bound is null then 1 end) <> 1
        or max(case when lower_bound is null then band_id end)
        <> {{ dbt.concat(['weather_measure', "'_not_observed'"]) }}

)

select problem from broken_bands
union all
select problem from broken_measures
