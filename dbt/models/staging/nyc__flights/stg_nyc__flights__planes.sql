with source as (

    select * from {{ source('nyc__flights', 'planes') }}

),

final as (

    select
        cast(tailnum as {{ dbt.type_string() }}) as tail_number,
        cast(type as {{ dbt.type_string() }}) as plane_type,
        cast(manufacturer as {{ dbt.type_string() }}) as manufacturer,
        -- The word of the registry; no keyword on either warehouse.
        cast(model as {{ dbt.type_string() }}) as model,  -- noqa: RF04
        cast(engine as {{ dbt.type_string() }}) as engine_type,

        cast(year as {{ dbt.type_int() }}) as manufactured_year,
        cast(engines as {{ dbt.type_int() }}) as engines,
        cast(seats as {{ dbt.type_int() }}) as seats,
        cast(speed as {{ dbt.type_int() }}) as cruising_speed_mph,

        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
