with source as (

    select * from {{ source('youtube__channels', 'channels') }}

),

final as (

    select
        cast(channel_id as {{ dbt.type_string() }}) as channel_id,
        cast(title as {{ dbt.type_string() }}) as channel_title,
        cast(handle as {{ dbt.type_string() }}) as handle,
        cast(description as {{ dbt.type_string() }}) as channel_description,
        cast(country as {{ dbt.type_string() }}) as country_code,
        cast(uploads_playlist_id as {{ dbt.type_string() }}) as uploads_playlist_id,

        published_at,

        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
