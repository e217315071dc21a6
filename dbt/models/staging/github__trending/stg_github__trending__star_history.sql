with source as (

    select * from {{ source('github__trending', 'star_history') }}

),

final as (

    select
        {{ surrogate_key(['repo_id', 'observed_date']) }} as repository_day_id,
        cast(repo_id as {{ dbt.type_bigint() }}) as repository_id,

        cast(stargazers_count as {{ dbt.type_bigint() }}) as stars,
        cast(forks_count as {{ dbt.type_bigint() }}) as forks,
        cast(open_issues_count as {{ dbt.type_bigint() }}) as open_issues,

        observed_date,

        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
