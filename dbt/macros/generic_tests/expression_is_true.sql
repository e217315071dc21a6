{#- A condition that holds for every row. A null counts as a failure: the rule could not be judged. -#}
{% test expression_is_true(model, expression) %}

select *
from {{ model }}
where not coalesce({{ expression }}, false)

{% endtest %}
