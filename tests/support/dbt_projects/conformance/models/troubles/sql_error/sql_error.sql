select order_id / (amount - amount) as order_id
from {{ ref('orders') }}
