{{ config(enabled='test_configs' in var('troubles')) }}
{{ exceptions.raise_compiler_error('it does not compile') if execute }}
select order_id from {{ ref('measured') }}
