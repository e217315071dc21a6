select * from {{ ref('contract_breach') }}
