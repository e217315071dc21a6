{{ config(enabled='test_configs' in var('troubles')) }}
select no_column from {{ ref('measured_view') }} where order_id = 1
