select * from {{ ref('compile_error') }}
