"""Positions of rendered SQL in the template that it comes from."""

from __future__ import annotations

import pytest
from dbt_common.clients import jinja

from infrastructure.ci.check_models.template_positions import (
    MarkTemplate,
    align,
    get_line_and_column,
    get_offset,
    read_marks,
)

TEMPLATE = """{#- a comment with {{ braces }}
    of two lines -#}
{% set condition %}where id > 1{% endset %}
with a as (
    select 1 as {{ 'x' }}  {% if true -%}
    , 2 as y {%- else %} , 3 as z {% endif %}
    {% for c in ['p', 'q'] %}
    , {{ c }} as of_{{ c }}{{ ',' if not loop.last }}
    {%- endfor %}
)
select {{ pair('id') }} from b
{{ condition }}
{% raw %}{{ raw }}{% endraw %} finally
"""


def render(template: str, *, marked: bool) -> str:
    environment = jinja.get_environment()
    if marked:
        environment.add_extension(MarkTemplate)
    return environment.from_string(template).render({"pair": lambda name: f"{name}_a, {name}_b"})


@pytest.mark.parametrize(
    ("rendered", "template"),
    [
        ("with a", "with a"),
        ("x  ,", "{{ 'x' }}"),
        ("2 as y", "2 as y"),
        # Both rounds of a loop point to the same place.
        ("p as", "{{ c }} as"),
        ("q as", "{{ c }} as"),
        ("as of_q", "as of_"),
        # Text from a macro points to the call.
        ("id_a", "{{ pair('id') }}"),
        ("id_b", "{{ pair('id') }}"),
        ("from b", "from b"),
        # Text of a variable points to the text, not to where it is used.
        ("where id", "where id"),
        ("{{ raw }}", "{{ raw }}"),
        (" finally", " finally"),
    ],
)
def test_a_position_is_mapped_back(rendered: str, template: str) -> None:
    text, positions = read_marks(render(TEMPLATE, marked=True))
    assert text == render(TEMPLATE, marked=False)
    assert positions.to_template(text.index(rendered)) == TEMPLATE.index(template)


def test_texts_are_aligned_by_comparison_where_marks_change_the_result() -> None:
    template = "select id,\n{{ 'na' ~ 'me' }} from a\n"
    rendered = "select id,\nname from a\n"
    positions = align(rendered, template)
    assert positions.to_template(rendered.index("id")) == template.index("id")
    assert positions.to_template(rendered.index("from")) == template.index("from")


def test_lines_and_columns() -> None:
    text = "ab\n\tcd\nü"
    assert get_line_and_column(text, text.index("d")) == (2, 3)
    assert get_offset(text, 2, 3) == text.index("d")
    # ZetaSQL's columns go on to the next multiple of eight after a tab.
    assert get_offset(text, 2, 10, tab=8) == text.index("d")
    assert get_offset(text, 3, 1) == text.index("ü")
    assert get_offset(text, 9, 1) == len(text)
