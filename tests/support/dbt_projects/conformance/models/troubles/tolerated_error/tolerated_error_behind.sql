-- depends_on: {{ ref('tolerated_error') }}
select 1 as id
