"""Conditions: what they can say, and what they cannot do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.afsm.errors import DefinitionError
from fastagent.afsm.expressions import Expression

VALUES = {"age": 42, "name": "Anna", "vip": True, "items": ["a", "b"], "nothing": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age > 18", True),
        ("18 < age <= 42", True),
        ("age == 42 and not vip", False),
        ("vip or unknown", True),
        ("unknown", None),
        ("unknown > 3", None),
        ("name == 'Anna'", True),
        ("'a' in items", True),
        ("'z' not in items", True),
        ("len(items) == 2", True),
        ("lower(name)", "anna"),
        ("age + 1 if vip else 0", 43),
        ("-age", -42),
        ("age / 0", None),
        ("nothing is None", True),
        ("name + ' Miller'", "Anna Miller"),
        ("[1, 2]", [1, 2]),
    ],
)
def test_what_an_expression_says(text: str, expected: object) -> None:
    assert Expression(text).value(VALUES) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "age >", "import os", "age.__class__", "().__class__.__bases__", "open('x')", "eval('1')", "lambda: 1",
        "[x for x in items]", "items[0]", "age := 3", "f'{age}'", "age ** 99", "~age", "1 << 9", "len(items, 1)",
        "len(*items)", "b'x'", "1j", "...", "len", "await x", "yield", "x; y", "(" * 300 + ")" * 300, "1 " * 400,
    ],
)  # fmt: skip
def test_what_is_refused_when_it_is_read(text: str) -> None:
    if text == "len":  # a name like any other
        assert Expression(text).value({}) is None
        return
    with pytest.raises(DefinitionError):
        Expression(text)


def test_texts_cannot_be_made_large() -> None:
    assert Expression("name * 1000").value({"name": "x"}) is None
    assert Expression("'%s' % name").value({"name": "x"}) is None
    assert Expression("a * a").value({"a": 2**200}) is None


def test_the_names_are_known_before_it_runs() -> None:
    assert Expression("a > 1 and len(b) or c in [d, 'e']").names == {"a", "b", "c", "d"}


@given(st.text(alphabet="abc 01+-*/%<>=!()[].,'\"andornotifelse_:{}\\", max_size=60))
@settings(max_examples=200)
def test_arbitrary_text_is_an_expression_or_a_definition_error(text: str) -> None:
    try:
        expression = Expression(text)
    except DefinitionError:
        return
    expression.value({"a": 1, "b": "x", "c": None})
