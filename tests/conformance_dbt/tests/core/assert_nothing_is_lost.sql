-- Every order arrives in the incremental table.
select order_id from {{ source('raw', 'orders') }}
except
select order_id from {{ ref('orders_loaded') }}
