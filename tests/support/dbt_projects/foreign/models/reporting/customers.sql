select
    customer,
    count(*) as orders,
    sum(amount) as amount,
    '{{ var("currency") }}' as currency,
    '{{ target.name }}' as built_in
from {{ ref('stg_orders') }}
group by customer
