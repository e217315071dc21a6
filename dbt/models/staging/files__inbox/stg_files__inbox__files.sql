with source as (

    select * from {{ source('files__inbox', '_files') }}

),

final as (

    select
        {{ surrogate_key(['table_name', 'file', '_dlt_load_id']) }} as file_load_id,
        cast(table_name as {{ dbt.type_string() }}) as table_name,
        cast(file as {{ dbt.type_string() }}) as file_name,
        cast(status as {{ dbt.type_string() }}) as file_status,
        cast(sha256 as {{ dbt.type_string() }}) as content_sha256,
        cast(reason as {{ dbt.type_string() }}) as refusal_reason,

        size_bytes as file_bytes,
        row_count,
        line_number as refused_line,

        row_number() over (
            partition by table_name, file
            order by _dlt_load_id desc
        ) = 1 as is_latest,

        modified_at,
        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
