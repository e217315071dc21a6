with source as (

    select * from {{ source('nyc__flights', 'airports') }}

),

final as (

    select
        cast(faa as {{ dbt.type_string() }}) as airport_code,
        cast(name as {{ dbt.type_string() }}) as airport_name,
        cast(tzone as {{ dbt.type_string() }}) as time_zone,
        cast(dst as {{ dbt.type_string() }}) as daylight_saving_code,

        lat as latitude,
        lon as longitude,
        cast(alt as {{ dbt.type_int() }}) as altitude_feet,
        cast(tz as {{ dbt.type_int() }}) as standard_utc_offset_hours,

        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
