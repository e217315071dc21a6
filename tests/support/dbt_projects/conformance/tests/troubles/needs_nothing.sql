-- A test of no model: its statement fails.
{{ config(enabled='test_error' in var('troubles'), tags=['test_error']) }}
select id from (select 0 as id) as zero where 1 / id = 1
