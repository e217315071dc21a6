with source as (

    select * from {{ source('github__trending', 'repositories') }}

),

final as (

    select
        cast(repo_id as {{ dbt.type_bigint() }}) as repository_id,
        cast(full_name as {{ dbt.type_string() }}) as full_name,
        cast(name as {{ dbt.type_string() }}) as repository_name,
        cast(owner_login as {{ dbt.type_string() }}) as owner_login,
        cast(owner_type as {{ dbt.type_string() }}) as owner_type,
        cast(description as {{ dbt.type_string() }}) as repository_description,
        cast(homepage as {{ dbt.type_string() }}) as homepage_url,
        cast(html_url as {{ dbt.type_string() }}) as repository_url,
        cast(language as {{ dbt.type_string() }}) as main_language,
        cast(license_spdx_id as {{ dbt.type_string() }}) as license_spdx_id,
        cast(default_branch as {{ dbt.type_string() }}) as default_branch,
        cast(topics as {{ dbt.type_string() }}) as topics,

        cast(stargazers_count as {{ dbt.type_bigint() }}) as stars,
        cast(forks_count as {{ dbt.type_bigint() }}) as forks,
        cast(open_issues_count as {{ dbt.type_bigint() }}) as open_issues,
        cast(size_kilobytes as {{ dbt.type_bigint() }}) as size_kilobytes,

        archived as is_archived,

        created_at,
        updated_at,
        pushed_at,

        _loaded_at,
        _dlt_load_id
    from source

)

select * from final
