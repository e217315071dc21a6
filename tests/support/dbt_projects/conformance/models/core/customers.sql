select
    customers.customer_id,
    customers.name,
    colours.code as colour
from {{ source('raw', 'customers') }} as customers
left join {{ ref('colours') }} as colours on customers.customer_id = colours.customer_id
