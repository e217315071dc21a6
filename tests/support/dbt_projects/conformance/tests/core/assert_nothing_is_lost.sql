-- Every order arrives in the incremental table.
select order_id from {{ source('raw', 'orders') }}
{{ dbt.except() }}
select order_id from {{ ref('orders_loaded') }}
