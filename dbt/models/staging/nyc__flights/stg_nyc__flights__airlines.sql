with source as (

    select * from {{ source('nyc__flights', 'airlines') }}

),

final as (

    select
        cast(carrier as {{ dbt.type_string() }}) as carrier_code,
        cast(name as {{ dbt.type_string() }}) as carrier_name,

        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
