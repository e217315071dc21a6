with planes as (

    select * from {{ ref('stg_nyc__flights__planes') }}

),

-- Two different gaps, kept apart: nobody wrote the tail number down, or the registry lacks it.
members as (

    select tail_number as plane_key from planes
    union all
    select 'not_recorded'
    union all
    select 'not_listed'

),

final as (

    select
        members.plane_key,
        planes.tail_number,
        planes.plane_type,
        planes.manufacturer,
        planes.model,
        planes.engine_type,
        planes.manufactured_year,
        planes.engines,
        planes.seats,
        planes.cruising_speed_mph,
        planes.tail_number is not null as is_listed
    from members
    left join planes
        on members.plane_key = planes.tail_number

)

select * from final
