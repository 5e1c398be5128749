"""Where a text is cut for synthesis, and whether an utterance looks finished."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.media.speech.sentences import looks_complete, sentences

LONG = (
    "If you would like to change the delivery address of an order that has not left our warehouse yet, please say the "
    "number of the order, and I will read the address that we have back to you."
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("   \n ", []),
        ("Hello", ["Hello"]),
        ("Hello. How are you?", ["Hello.", "How are you?"]),
        ("Wait! What? No.", ["Wait!", "What?", "No."]),
        ("One.\nTwo.\t Three.", ["One.", "Two.", "Three."]),
        ("That costs 3.50 dollars. Fine?", ["That costs 3.50 dollars.", "Fine?"]),
        ("Dr. Miller is here. Come in.", ["Dr. Miller is here.", "Come in."]),
        ("Mr. and Mrs. J. Smith called. They wait.", ["Mr. and Mrs. J. Smith called.", "They wait."]),
        ("We close at 5 p.m. on Friday. Bye.", ["We close at 5 p.m. on Friday.", "Bye."]),
        ("Bring papers, e.g. a passport. Thanks.", ["Bring papers, e.g. a passport.", "Thanks."]),
        ("Well... maybe.", ["Well...", "maybe."]),
        ("It ends with Dr.", ["It ends with Dr."]),
        ("No full stop. at all", ["No full stop.", "at all"]),
        ("See https://example.com/a.b?c=d now. Bye.", ["See https://example.com/a.b?c=d now.", "Bye."]),
    ],
)
def test_a_text_is_cut_at_the_ends_of_its_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_quotes_and_brackets_stay_with_the_sentence_that_they_close() -> None:
    assert sentences('She said "hello." Then (at last!) she left.') == [
        'She said "hello."',
        "Then (at last!)",
        "she left.",
    ]


def test_a_long_sentence_is_cut_at_the_clause_nearest_to_its_middle() -> None:
    assert sentences(LONG) == [
        "If you would like to change the delivery address of an order that has not left our warehouse yet,",
        "please say the number of the order, and I will read the address that we have back to you.",
    ]


def test_a_very_long_sentence_is_cut_until_its_pieces_are_short() -> None:
    text = ", ".join(f"the item of the list with the number {at}" for at in range(40)) + "."
    pieces = sentences(text)
    assert " ".join(pieces) == text
    assert max(map(len, pieces)) <= 160


def test_a_long_sentence_without_clauses_stays_whole() -> None:
    text = "word " * 60 + "end."
    assert sentences(text) == [text]


@given(st.text(alphabet="abD .,!?;\n\"')1-", max_size=400))
@settings(max_examples=100)
def test_no_word_is_lost_or_made_up(text: str) -> None:
    pieces = sentences(text)
    assert re.findall(r"\w+", " ".join(pieces)) == re.findall(r"\w+", text)
    assert all(piece == piece.strip() and piece for piece in pieces)


@pytest.mark.parametrize(
    "text",
    ["Hello.", "Yes", "I'd like to book a table.", "ten thirty", "My name is Anna", "What are your hours?",
     "No, thanks.",
     "I see it.", "Stop!", "555 0123", "Call me back", "Let me know", "¡Hola!", "はい", "He said so, OK"],
)  # fmt: skip
def test_a_finished_utterance_looks_complete(text: str) -> None:
    assert looks_complete(text)


@pytest.mark.parametrize(
    "text",
    ["", "  ", "My name is", "I want to", "I want to.", "And", "the", "Well, um,", "I was thinking...", "It's, uh",
     "So I…", "I'd like a table for", "because", "my number is -", "I'm", "Let me", "can you", "Maybe, "],
)  # fmt: skip
def test_an_utterance_that_trails_off_does_not(text: str) -> None:
    assert not looks_complete(text)


@pytest.mark.parametrize("text", ["Yes, it is.", "Yes, I do.", "No, it isn't."])
def test_a_short_answer_with_its_verb_looks_complete(text: str) -> None:
    # The usual answers to a yes-or-no question; taken as unfinished, each waits 1.5 s in place of 0.4.
    assert looks_complete(text)
