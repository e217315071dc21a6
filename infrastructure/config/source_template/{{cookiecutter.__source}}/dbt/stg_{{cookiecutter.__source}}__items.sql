with source as (

    select * from {% raw %}{{{% endraw %} source('{{ cookiecutter.__source }}', 'items') {% raw %}}}{% endraw %}


),

final as (

    select
        cast(id as {% raw %}{{ dbt.type_bigint() }}{% endraw %}) as item_id,
        cast(name as {% raw %}{{ dbt.type_string() }}{% endraw %}) as item_name,

        updated_at,
{% if cookiecutter.__kind != "database" %}
        _loaded_at,
{% endif %}
        _dlt_load_id
    from source

)

select * from final
