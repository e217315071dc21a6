select
    order_id,
    customer_id,
    case when order_id <> 2 then amount end as amount
from {{ source('raw', 'orders') }}
