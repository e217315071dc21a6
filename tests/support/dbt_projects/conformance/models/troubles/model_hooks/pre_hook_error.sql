{{ config(pre_hook='select 1 / 0') }}

select 1 as id
