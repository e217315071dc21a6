{{ config(enabled='test_configs' in var('troubles')) }}
select order_id from {{ ref('measured') }} where order_id = 1;
