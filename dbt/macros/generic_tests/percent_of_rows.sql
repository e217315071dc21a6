{#-
    Measures which percentage of rows meets a condition, rounded up to a whole number, and reports
    it as the number of failures. So `warn_if: ">20"` reads "warn above 20 percent", and a warning
    prints the percentage. For imperfections that are known, kept and watched.
-#}
{% test percent_of_rows(model, condition) %}

{{ config(fail_calc="coalesce(max(percentage), 0)") }}

with counted as (
    select
        count(*) as row_count,
        count(case when {{ condition }} then 1 end) as matching_count
    from {{ model }}
)

select cast(ceil(100.0 * matching_count / row_count) as {{ dbt.type_int() }}) as percentage
from counted
where matching_count > 0

{% endtest %}
