with source as (

    select * from {{ source('youtube__channels', 'video_statistics') }}

),

final as (

    select
        {{ surrogate_key(['video_id', 'observed_date']) }} as video_day_id,
        cast(video_id as {{ dbt.type_string() }}) as video_id,

        cast(view_count as {{ dbt.type_bigint() }}) as view_count,
        cast(like_count as {{ dbt.type_bigint() }}) as like_count,
        cast(comment_count as {{ dbt.type_bigint() }}) as comment_count,

        observed_date,

        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
