{{ config(enabled='test_configs' in var('troubles')) }}
select order_id from {{ ref('measured') }} where 1 / (order_id - 5) > 10
