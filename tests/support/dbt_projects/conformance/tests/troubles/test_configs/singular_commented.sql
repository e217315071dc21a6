{{ config(enabled='test_configs' in var('troubles')) }}
-- A test's own words: group by, limit
select order_id, customer_id from {{ ref('measured_view') }} where customer_id = 3 -- and more
