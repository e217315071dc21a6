{{ config(enabled='test_configs' in var('troubles')) }}
with few as (select order_id from {{ ref('measured') }} where order_id > 4) select * from few -- the end
