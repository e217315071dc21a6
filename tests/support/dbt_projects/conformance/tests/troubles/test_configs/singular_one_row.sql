{{ config(enabled='test_configs' in var('troubles')) }}
select count(*) as n from {{ ref('measured') }} having count(*) > 4
