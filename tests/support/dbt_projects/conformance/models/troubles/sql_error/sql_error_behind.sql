select * from {{ ref('sql_error') }}
