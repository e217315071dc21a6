select cast('a word' as {{ dbt.type_string() }}) as order_id
