-- A test of no model: its statement fails.
{{ config(enabled='test_error' in var('troubles'), tags=['test_error']) }}
select 1 / 0 as id
