select * from {{ ref('bad_snapshot') }}
