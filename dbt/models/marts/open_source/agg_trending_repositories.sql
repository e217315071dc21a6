with repositories as (

    select * from {{ ref('stg_github__trending__repositories') }}

),

star_history as (

    select * from {{ ref('stg_github__trending__star_history') }}

),

ranked_days as (

    select
        repository_id,
        stars,
        observed_date,
        row_number() over (partition by repository_id order by observed_date) as day_number,
        row_number() over (
            partition by repository_id order by observed_date desc
        ) as day_number_from_last
    from star_history

),

observed as (

    select
        repository_id,
        max(case when day_number = 1 then stars end) as first_stars,
        max(case when day_number_from_last = 1 then stars end) as last_stars,
        count(*) as observed_days,
        min(observed_date) as first_observed_date,
        max(observed_date) as last_observed_date
    from ranked_days
    group by repository_id

),

gained as (

    select
        repository_id,
        last_stars,
        last_stars - first_stars as gained_stars,
        observed_days,
        {{ dbt.datediff(
            'first_observed_date', 'last_observed_date', 'day'
        ) }} as elapsed_days,
        first_observed_date,
        last_observed_date
    from observed

),

final as (

    select
        repositories.repository_id,
        repositories.full_name,
        repositories.owner_login,
        coalesce(repositories.main_language, 'not_recorded') as main_language,
        repositories.license_spdx_id,
        repositories.repository_url,
        gained.last_stars as stars,
        gained.gained_stars,
        gained.observed_days,
        -- Of those last seen on a day the one with the most stars is 1.
        rank() over (
            partition by repositories.main_language, gained.last_observed_date
            order by gained.last_stars desc
        ) as rank_in_language,
        -- Null until a repository was seen on two days.
        {{ rate('gained.gained_stars', 'gained.elapsed_days') }} as gained_stars_per_day,
        repositories.is_archived,
        gained.first_observed_date,
        gained.last_observed_date,
        repositories.created_at
    from repositories
    left join gained
        on repositories.repository_id = gained.repository_id

)

select * from final
