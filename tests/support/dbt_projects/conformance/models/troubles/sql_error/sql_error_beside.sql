{{ config(materialized='view') }}

select order_id from {{ ref('orders') }}
