select * from {{ ref('sql_error_inside') }}
