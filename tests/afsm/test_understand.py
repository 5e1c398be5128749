"""Understanding without a model: what callers say, and what recognisers make of it."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastagent.afsm.understand import DAYS, TimeOfDay, day, digits, intent, name, time_of_day, words, yes_no

# -- yes and no ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["yes", "Yes.", "YES!", "Yes please.", "Yes, please.", "Yeah, that's right.", "Yep.", "Correct.",
     "That is correct.",
     "Sure.", "OK", "Okay.", "Right.", "You're right.", "Absolutely.", "Yes, it is.", "That's it.", "Oh, yeah.",
     "Fine.",
     "Um, yes.", "Yes, I don't mind.", "Sure, why not?", "Yes, nothing else.", "Definitely, yes."],
)  # fmt: skip
def test_yes(text: str) -> None:
    assert yes_no(text) is True


@pytest.mark.parametrize(
    "text",
    ["no", "No.", "NO!", "Nope.", "Nah", "No thanks.", "No, thank you.", "No, I don't think so.", "I don't think so.",
     "Not really.", "That's not right.", "No, that's not right.", "No, that's wrong.", "That's wrong.", "Incorrect.",
     "No, that's right.", "Never.", "It is not.", "Never mind.", "Oh no.", "Um, no.", "Of course not."],
)  # fmt: skip
def test_no(text: str) -> None:
    assert yes_no(text) is False


@pytest.mark.parametrize("text", ["Absolutely not.", "Definitely not.", "Absolutely not!"])
def test_a_strong_word_before_not_means_no(text: str) -> None:
    assert yes_no(text) is False


@pytest.mark.parametrize(
    "text", ["It isn't.", "That isn't right.", "That isn’t correct.", "That doesn't sound right.", "That won't work."]
)
def test_a_verb_with_not_in_it_means_no(text: str) -> None:
    assert yes_no(text) is False


@pytest.mark.parametrize(
    "text",
    ["", "...", "Maybe.", "What?", "My name is Anna.", "Mama?", "It has.", "Know.", "Yesterday", "Rights", "Notes"],
)
def test_neither_yes_nor_no(text: str) -> None:
    assert yes_no(text) is None


@pytest.mark.parametrize("text", ["I'm not sure.", "I don't know.", "Not sure."])
def test_a_caller_who_does_not_know_says_neither(text: str) -> None:
    assert yes_no(text) is None


# -- intents ---------------------------------------------------------------------------------------------------------

INTENTS = {
    "hours": ["opening hours", "hours", "open", "when do you open", "close"],
    "visit": ["book", "booking", "visit", "appointment", "come in"],
    "person": ["person", "human", "somebody", "someone", "operator", "speak to"],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What are your opening hours on Sunday?", "hours"),
        ("what are your opening ours", "hours"),
        ("When do you open?", "hours"),
        ("Are you open today?", "hours"),
        ("When do you close?", "hours"),
        ("I'd like to book a table for four people.", "visit"),
        ("I would like to book a visit.", "visit"),
        ("Can I have an apointment?", "visit"),
        ("Appointments.", "visit"),
        ("Could I come in on Friday?", "visit"),
        ("Speak to a person.", "person"),
        ("I want to talk to a human being", "person"),
        ("operater", "person"),
        ("SOMEBODY, PLEASE!", "person"),
    ],
)
def test_the_intent_of_a_caller_is_found(text: str, expected: str) -> None:
    assert intent(text, INTENTS) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "Hello.",
        "Transfer me to the billing department, please.",
        "The weather is nice.",
        "I forgot my password.",
        "Can I look around?",
    ],
)
def test_what_fits_no_intent_has_none(text: str) -> None:
    assert intent(text, INTENTS) is None


def test_the_longest_phrase_wins() -> None:
    assert intent("When do you open for a visit?", INTENTS) == "hours"
    assert intent("book", {"short": ["book"], "long": ["book a table"]}) == "short"
    assert intent("book a table", {"short": ["book"], "long": ["book a table"]}) == "long"


def test_an_exact_word_beats_a_similar_one_and_among_equals_the_first_wins() -> None:
    assert intent("booking", {"a": ["bookings"], "b": ["booking"]}) == "b"
    assert intent("yes", {"a": ["yes"], "b": ["yes"]}) == "a"


def test_the_words_of_a_phrase_must_follow_each_other() -> None:
    assert intent("come again in an hour", {"visit": ["come in"]}) is None


def test_short_words_must_be_exact() -> None:
    assert intent("pan", {"pen": ["pen"]}) is None
    assert intent("on", {"in": ["in"]}) is None


@pytest.mark.parametrize("phrases", [{}, {"a": []}, {"a": [""]}, {"a": ["..."]}])
def test_without_phrases_there_is_no_intent(phrases: dict[str, list[str]]) -> None:
    assert intent("hello", phrases) is None
    assert intent("", phrases) is None


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anna.", "Anna"),
        ("Anna Miller", "Anna Miller"),
        ("anna miller", "Anna Miller"),
        ("My name is Anna Miller.", "Anna Miller"),
        ("My name's Anna.", "Anna"),
        ("My name’s Anna.", "Anna"),
        ("The name is Bond, James Bond.", "Bond"),
        ("It's Anna.", "Anna"),
        ("It is Anna.", "Anna"),
        ("This is David Thompson.", "David Thompson"),
        ("I'm David.", "David"),
        ("I am David Thompson, and I would like to book.", "David Thompson"),
        ("I'm Anna and I have a question", "Anna"),
        ("Call me Ishmael.", "Ishmael"),
        ("You can call me Al", "Al"),
        ("Hi, my name is John.", "John"),
        ("Hello, this is Anna calling about my order.", "Anna"),
        ("Yes, um, it's Anna.", "Anna"),
        ("Well, hello, I am Peter Pan", "Peter Pan"),
        ("Good morning, this is Catherine.", "Catherine"),
        ("Um, Anna.", "Anna"),
        ("Anna Miller speaking.", "Anna Miller"),
        ("Anna here.", "Anna"),
        ("This is Bob Smith from Boston.", "Bob Smith"),
        ("Anna O'Brien", "Anna O'Brien"),
        ("Jean-Luc Picard.", "Jean-Luc Picard"),
        ("Mary Ann Smith", "Mary Ann Smith"),
        ("José García", "José García"),
        ("Andy Sanderson", "Andy Sanderson"),
        ("Imani", "Imani"),
        ("Isabel", "Isabel"),
        ("Herbert Heregood", "Herbert Heregood"),
        ("MacDonald", "MacDonald"),
    ],
)
def test_a_name_is_found(text: str, expected: str) -> None:
    assert name(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "...", "?", "My name is", "My name is.", "I would like to book a table.", "What are your opening hours?",
     "555 1234", "Yes.", "No.", "Hello?", "Sorry?", "I'm not sure.", "Can you help me, please?", "I need a person",
     "a very long sentence that nobody has as a name"],
)  # fmt: skip
def test_where_there_is_no_name_none_is_made_up(text: str) -> None:
    assert name(text) is None


@pytest.mark.parametrize(("text", "surname"), [("Mr. Smith.", "Smith"), ("This is Dr. Brown.", "Brown")])
def test_a_title_is_not_the_name(text: str, surname: str) -> None:
    found = name(text)
    assert found is not None
    assert found.endswith(surname)


def test_it_is_me_is_not_a_name() -> None:
    assert name("It's me.") is None


# -- days ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expected", DAYS)
def test_every_day_is_known_by_its_name(expected: str) -> None:
    for text in (expected, f"on {expected.lower()}.", f"{expected}s", f"Next {expected}, please!", expected.upper()):
        assert day(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Tusday", "Tuesday"), ("Wednessday.", "Wednesday"), ("Tuesday or Wednesday", "Tuesday")],
)
def test_a_day_may_be_misspelt(text: str, expected: str) -> None:
    assert day(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("Friday's good.", "Friday"), ("Wednesday’s fine", "Wednesday")])
def test_a_day_may_carry_its_verb(text: str, expected: str) -> None:
    assert day(text) == expected


@pytest.mark.parametrize(
    "text", ["", "...", "today", "tomorrow", "birthday", "someday", "Sundae", "money", "at ten", "holidays"]
)
def test_what_names_no_day(text: str) -> None:
    assert day(text) is None


# -- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hour", "minute"),
    [
        ("10:30", 10, 30),
        ("10.30.", 10, 30),
        ("At 10:30.", 10, 30),
        ("10 30", 10, 30),
        ("at ten", 10, 0),
        ("At 10.", 10, 0),
        ("ten thirty", 10, 30),
        ("two thirty", 14, 30),
        ("nine fifteen", 9, 15),
        ("one forty-five", 13, 45),
        ("two forty five", 14, 45),
        ("half past ten", 10, 30),
        ("Half past 10.", 10, 30),
        ("Have past ten.", 10, 30),
        ("House past 10", 10, 30),
        ("half past two", 14, 30),
        ("half past twelve", 12, 30),
        ("quarter past nine", 9, 15),
        ("a quarter past 3", 15, 15),
        ("quarter to ten", 9, 45),
        ("quarter to 1 pm", 12, 45),
        ("quarter to nine a.m.", 8, 45),
        ("3 p.m.", 15, 0),
        ("at 3 P.M.", 15, 0),
        ("at 3 p. m.", 15, 0),
        ("4 PM", 16, 0),
        ("10.30 p.m.", 22, 30),
        ("2:45 PM", 14, 45),
        ("9 a.m.", 9, 0),
        ("7 am", 7, 0),
        ("12 am", 0, 0),
        ("12 pm", 12, 0),
        ("12:15", 12, 15),
        ("twelve", 12, 0),
        ("noon", 12, 0),
        ("at midday, please", 12, 0),
        ("eleven o'clock", 11, 0),
        ("10 o'clock in the morning.", 10, 0),
        ("3 o'clock in the afternoon", 15, 0),
        ("ten in the morning", 10, 0),
        ("two in the afternoon", 14, 0),
        ("Six in the evening.", 18, 0),
        ("14:30", 14, 30),
        ("3:05", 15, 5),
        ("five", 17, 0),
        ("eight", 8, 0),
        ("How about 4?", 16, 0),
        ("On Monday the 3rd at 10", 10, 0),
    ],
)
def test_a_time_is_found(text: str, hour: int, minute: int) -> None:
    assert time_of_day(text) == TimeOfDay(hour, minute)


@pytest.mark.parametrize(
    ("text", "hour", "minute"),
    [
        pytest.param("1030.", 10, 30, id="ten thirty"),
        pytest.param("1140.", 11, 40, id="eleven forty"),
        pytest.param("245.", 14, 45, id="two forty five"),
        pytest.param("915.", 9, 15, id="nine fifteen"),
        pytest.param("305.", 15, 5, id="three oh five"),
        pytest.param("at 9am.", 9, 0, id="at nine a.m."),
        pytest.param("9:30am", 9, 30, id="nine thirty a.m."),
        pytest.param("Quarter to 1.", 12, 45, id="quarter to one"),
        pytest.param("20 past 10.", 10, 20, id="twenty past ten"),
        pytest.param("Eight in the evening.", 20, 0, id="eight in the evening"),
    ],
)
def test_a_time_is_found_in_what_the_recogniser_made_of_it(text: str, hour: int, minute: int) -> None:
    # Left: Whisper's text for the phrase that is the case's name, spoken by the embedded voice.
    assert time_of_day(text) == TimeOfDay(hour, minute)


@pytest.mark.parametrize(
    ("text", "hour", "minute"),
    [
        ("five past ten", 10, 5),
        ("ten to four", 15, 50),
        ("ten twenty", 10, 20),
        ("three oh five", 15, 5),
        ("Ten-thirty.", 10, 30),
        ("nine in the evening", 21, 0),
        ("nine p. m.", 21, 0),
    ],
)
def test_a_time_is_not_taken_for_another_one(text: str, hour: int, minute: int) -> None:
    assert time_of_day(text) in (TimeOfDay(hour, minute), None)


@pytest.mark.parametrize(
    "text", ["", "...", "no time", "I don't know.", "99", "25", "12:60", "5551234", "Half past you."]
)
def test_what_names_no_time(text: str) -> None:
    assert time_of_day(text) is None


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (TimeOfDay(0), "12 a.m."),
        (TimeOfDay(9), "9 a.m."),
        (TimeOfDay(9, 5), "9 05 a.m."),
        (TimeOfDay(11, 59), "11 59 a.m."),
        (TimeOfDay(12), "12 p.m."),
        (TimeOfDay(14, 30), "2 30 p.m."),
        (TimeOfDay(23), "11 p.m."),
    ],
)
def test_a_time_is_said_on_the_twelve_hour_clock(time: TimeOfDay, text: str) -> None:
    assert str(time) == text


@given(st.integers(0, 23), st.integers(0, 59))
@settings(max_examples=100)
def test_a_time_that_is_said_is_understood(hour: int, minute: int) -> None:
    time = TimeOfDay(hour, minute)
    assert time_of_day(str(time)) == time


# -- digits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("five five five one two three four", "5551234"),
        ("5 5 5 5 1 2 3 4", "55551234"),
        ("555-1234", "5551234"),
        ("My reference number is 61705.", "61705"),
        ("(555) 555 0123", "5555550123"),
        ("+1 800 555 1234", "18005551234"),
        ("double oh seven", "007"),
        ("Oh, seven, seven.", "077"),
        ("Double five triple two.", "55222"),
        ("five double two", "522"),
        ("triple 9", "999"),
        ("12 double 3", "1233"),
        ("It's zero one, two three", "0123"),
        ("one, 2, three", "123"),
        ("four 4", "44"),
        ("double", ""),
        ("double the five", "5"),
        ("", ""),
        ("I don't know it", ""),
        ("someone, anyone, often", ""),
    ],
)
def test_digits_are_found_spoken_and_written(text: str, expected: str) -> None:
    assert digits(text) == expected


# -- all of them -----------------------------------------------------------------------------------------------------


@given(st.text(max_size=60))
@example("٣ o'clock, ²")
@example("9" * 5000)
@settings(max_examples=100)
def test_any_text_is_understood_as_something_or_nothing(text: str) -> None:
    assert yes_no(text) in (True, False, None)
    assert day(text) in (*DAYS, None)
    assert set(digits(text)) <= set("0123456789")
    assert intent(text, INTENTS) in (*INTENTS, None)
    time = time_of_day(text)
    assert time is None or (0 <= time.hour < 24 and 0 <= time.minute < 60)
    found = name(text)
    assert found is None or found.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("It's Anna’s 2nd CALL!", ["it's", "anna's", "2nd", "call"]), ("", []), ("--", []), ("don't", ["don't"])],
)
def test_words_are_lower_case_without_punctuation(text: str, expected: list[str]) -> None:
    assert words(text) == expected
