with source as (

    select * from {{ source('youtube__channels', 'channel_statistics') }}

),

final as (

    select
        {{ surrogate_key(['channel_id', 'observed_date']) }} as channel_day_id,
        cast(channel_id as {{ dbt.type_string() }}) as channel_id,

        cast(view_count as {{ dbt.type_bigint() }}) as view_count,
        cast(subscriber_count as {{ dbt.type_bigint() }}) as subscriber_count,
        cast(video_count as {{ dbt.type_bigint() }}) as video_count,

        hidden_subscriber_count as is_subscriber_count_hidden,

        observed_date,

        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
