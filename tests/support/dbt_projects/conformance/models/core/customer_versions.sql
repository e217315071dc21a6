{{ config(
    pre_hook="{{ count_hook('model, before') }}",
    post_hook="{{ count_hook('model, after') }}",
) }}

select
    customer_id,
    count(*) as versions
from {{ ref('customers_by_check') }}
group by customer_id
