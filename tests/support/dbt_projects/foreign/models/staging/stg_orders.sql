select order_id, customer, amount, ordered_at::date as ordered_on
from {{ source('shop', 'shop_orders') }}
