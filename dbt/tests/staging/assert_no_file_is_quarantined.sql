-- The load reports a refused file once; this test warns until somebody fixes it. The other files
-- are loaded, so it warns and stops nothing.
{{ config(severity='warn', enabled='files__inbox' not in var('disabled_sources')) }}

select
    table_name,
    file_name,
    refused_line,
    refusal_reason
from {{ ref('stg_files__inbox__quarantined_files') }}
