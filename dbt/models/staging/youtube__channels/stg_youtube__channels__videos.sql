with source as (

    select * from {{ source('youtube__channels', 'videos') }}

),

final as (

    select
        cast(video_id as {{ dbt.type_string() }}) as video_id,
        cast(channel_id as {{ dbt.type_string() }}) as channel_id,
        cast(title as {{ dbt.type_string() }}) as video_title,
        cast(description as {{ dbt.type_string() }}) as video_description,
        cast(category_id as {{ dbt.type_string() }}) as category_id,
        cast(live_broadcast_content as {{ dbt.type_string() }}) as live_broadcast_content,
        cast(definition as {{ dbt.type_string() }}) as definition,

        cast(duration_seconds as {{ dbt.type_bigint() }}) as duration_seconds,

        published_at,

        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
