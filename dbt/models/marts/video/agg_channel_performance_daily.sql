with channels as (

    select * from {{ ref('stg_youtube__channels__channels') }}

),

channel_days as (

    select * from {{ ref('stg_youtube__channels__channel_statistics') }}

),

videos as (

    select * from {{ ref('stg_youtube__channels__videos') }}

),

video_days as (

    select * from {{ ref('stg_youtube__channels__video_statistics') }}

),

by_channel_and_day as (

    select
        videos.channel_id,
        video_days.observed_date,
        count(*) as observed_video_count,
        cast(sum(video_days.like_count) as {{ dbt.type_bigint() }}) as like_count,
        cast(sum(video_days.comment_count) as {{ dbt.type_bigint() }}) as comment_count
    from video_days
    inner join videos
        on video_days.video_id = videos.video_id
    group by videos.channel_id, video_days.observed_date

),

with_previous as (

    select
        channel_day_id,
        channel_id,
        view_count,
        subscriber_count,
        video_count,
        is_subscriber_count_hidden,
        observed_date,
        lag(view_count) over (partition by channel_id order by observed_date) as previous_views,
        lag(subscriber_count) over (
            partition by channel_id order by observed_date
        ) as previous_subscribers,
        lag(observed_date) over (partition by channel_id order by observed_date) as previous_date
    from channel_days

),

final as (

    select
        with_previous.channel_day_id,
        with_previous.channel_id,
        channels.channel_title,
        with_previous.view_count,
        with_previous.subscriber_count,
        with_previous.video_count,
        coalesce(by_channel_and_day.observed_video_count, 0) as observed_video_count,
        by_channel_and_day.like_count,
        by_channel_and_day.comment_count,
        with_previous.view_count - with_previous.previous_views as gained_views,
        with_previous.subscriber_count - with_previous.previous_subscribers as gained_subscribers,
        cast({{ dbt.datediff(
            'with_previous.previous_date', 'with_previous.observed_date', 'day'
        ) }} as {{ dbt.type_bigint() }}) as days_since_previous,
        with_previous.is_subscriber_count_hidden,
        with_previous.observed_date
    from with_previous
    left join channels
        on with_previous.channel_id = channels.channel_id
    left join by_channel_and_day
        on
            with_previous.channel_id = by_channel_and_day.channel_id
            and with_previous.observed_date = by_channel_and_day.observed_date

)

select * from final
