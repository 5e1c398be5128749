"""Slots: what callers say, what it means, and how it is read back."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.afsm.slots import KINDS, SlotRules, complete, day_of, number, parse, spoken

TODAY = date(2026, 11, 22)  # a Sunday
PLAIN = SlotRules()


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("text", " It hurts. ", "It hurts."),
        ("text", "  ", None),
        ("digits", "one two three", "123"),
        ("digits", "none", None),
        ("phone", "555 1234", "5551234"),
        ("phone", "555", None),
        ("number", "forty two", 42),
        ("number", "none of them", None),
        ("date", "Tomorrow.", "2026-11-23"),
        ("date", "the day after tomorrow", "2026-11-24"),
        ("date", "today, please", "2026-11-22"),
        ("date", "On Friday.", "2026-11-27"),
        ("date", "Sunday", "2026-11-29"),
        ("date", "the third of April", "2027-04-03"),
        ("date", "December 24th", "2026-12-24"),
        ("date", "twenty first of May", "2027-05-21"),
        ("date", "on the 25th", "2026-11-25"),
        ("date", "the thirty first of February", None),
        ("date", "soon", None),
        ("time", "half past ten", "10:30"),
        ("time", "later", None),
        ("yes_no", "Yes, please.", True),
        ("yes_no", "No.", False),
        ("yes_no", "Maybe.", None),
        ("email", "anna.miller@example.com", "anna.miller@example.com"),
        ("email", "My email is anna dot miller at example dot com.", "anna.miller@example.com"),
        ("email", "at home", None),
        ("spelled_name", "S M I T H", "Smith"),
        ("spelled_name", "S as in Sierra, M as in Mike, I, double T", "Smitt"),
        ("spelled_name", "sierra mike india", "Smi"),
        ("spelled_name", "My name is Smith.", "Smith"),
        ("spelled_name", "What?", None),
    ],
)
def test_what_is_understood(kind: str, text: str, expected: Any) -> None:
    assert parse(kind, text, PLAIN, TODAY) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("zero", 0), ("nineteen", 19), ("twenty", 20), ("ninety nine", 99), ("a hundred", 100),
        ("two hundred and five", 205), ("one thousand two hundred", 1200), ("three million", 3_000_000),
        ("It's 1,250 dollars", 1250), ("3.5", 3.5), ("minus", None), ("I have two cats and a dog", 2), ("", None),
    ],
)  # fmt: skip
def test_numbers(text: str, expected: float | None) -> None:
    assert number(text) == expected


def test_numbers_and_digits_have_their_bounds() -> None:
    assert parse("number", "five", SlotRules(minimum=6), TODAY) is None
    assert parse("number", "five", SlotRules(maximum=4), TODAY) is None
    six = SlotRules(min_digits=6, max_digits=6)
    assert parse("digits", "12345", six, TODAY) is None
    assert parse("digits", "1234567", six, TODAY) is None
    assert parse("digits", "123456", six, TODAY) == "123456"
    assert complete("digits", "one two three", six) is False
    assert complete("digits", "one two three four five six", six) is True
    assert complete("digits", "hello", six) is None
    assert complete("text", "anything", six) is None


def test_a_choice_is_one_of_its_phrases() -> None:
    rules = SlotRules(choices=(("small", ("small", "little")), ("large", ("large", "big one"))))
    assert parse("choice", "the big one please", rules, TODAY) == "large"
    assert parse("choice", "medium", rules, TODAY) is None


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("digits", "123", "1 2 3"),
        ("date", "2026-11-27", "Friday, November 27"),
        ("time", "14:30", "2 30 p.m."),
        ("yes_no", True, "yes"),
        ("spelled_name", "Smith", "Smith, spelled S M I T H"),
        ("email", "a.b@c.de", "a dot b at c dot de"),
        ("number", 5, "5"),
    ],
)
def test_how_it_is_read_back(kind: str, value: Any, said: str) -> None:
    assert spoken(kind, value) == said


@given(st.sampled_from(KINDS), st.text(max_size=60))
@settings(max_examples=150)
def test_any_text_is_a_value_or_none_and_can_be_read_back(kind: str, text: str) -> None:
    value = parse(kind, text, SlotRules(choices=(("a", ("a",)),)), TODAY)
    if value is not None:
        assert spoken(kind, value)


@given(st.dates(date(2024, 1, 1), date(2030, 1, 1)))
@settings(max_examples=50)
def test_a_weekday_is_the_next_one_and_never_today(today: date) -> None:
    for name in ("Monday", "Sunday"):
        found = day_of(f"on {name}", today)
        assert found is not None
        assert 1 <= (found - today).days <= 7
        assert f"{found:%A}" == name
