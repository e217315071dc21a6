select * from {{ ref('bad_colours') }}
