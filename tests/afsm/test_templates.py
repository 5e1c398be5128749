"""Templates in their sandbox."""

import logging

import pytest

from fastagent.afsm.errors import DefinitionError
from fastagent.afsm.templates import Template


def test_text_without_braces_is_itself_to_the_letter() -> None:
    assert Template("100 % of <b>& ' \" it}").render({}) == "100 % of <b>& ' \" it}"


def test_names_are_filled_in() -> None:
    assert Template("Hello {{ name }}, {{ n + 1 }}").render({"name": "<Anna>", "n": 1}) == "Hello <Anna>, 2"


def test_an_unknown_name_is_nothing_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    one = Template("Hi {{ who }}{{ who.first.name }}!")
    with caplog.at_level(logging.WARNING):
        assert one.render({}) == "Hi !"
        assert one.render({}) == "Hi !"
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ x.append(1) }}",
        "{{ 1 / 0 }}",
        "{{ x.__init__.__globals__ }}",
        "{{ range(10**9) }}",
    ],
)
def test_nothing_gets_out_of_the_sandbox_and_nothing_raises(text: str) -> None:
    values = {"x": [1]}
    rendered = Template(text).render(values)
    assert "class" not in rendered
    assert values == {"x": [1]}


@pytest.mark.parametrize("text", ["{{ name", "{% if %}", "{{ a b }}", "{% endfor %}"])
def test_a_broken_template_is_a_definition_error(text: str) -> None:
    with pytest.raises(DefinitionError):
        Template(text)


def test_the_names_are_known_before_it_is_rendered() -> None:
    assert Template("{{ a }} {% if b %}{{ c.d }}{% endif %}").names == {"a", "b", "c"}
