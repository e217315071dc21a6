with files as (

    select * from {{ ref('stg_files__inbox__files') }}

),

final as (

    select
        file_load_id,
        table_name,
        file_name,
        refusal_reason,

        file_bytes,
        refused_line,

        modified_at,
        _loaded_at,
        _dlt_load_id
    from files
    where is_latest and file_status = 'quarantined'

)

select * from final
