"""The heard ledger."""

from hypothesis import given
from hypothesis import strategies as st

from fastagent.media.heard import HeardLedger


def test_a_sentence_is_cut_at_the_word_that_was_mostly_played() -> None:
    ledger = HeardLedger()
    ledger.add("one two three four", 1800)
    assert ledger.heard(0) == ""
    assert ledger.heard(900) == "one two"
    assert ledger.heard(1800) == "one two three four"


def test_silence_between_sentences_has_no_words() -> None:
    ledger = HeardLedger()
    ledger.add("Hello.", 100)
    ledger.add("", 60)
    ledger.add("Bye.", 100)
    assert ledger.heard(160) == "Hello."
    assert ledger.heard(260) == ledger.text == "Hello. Bye."


@given(st.lists(st.tuples(st.text("ab c", max_size=30), st.integers(1, 5000)), max_size=5), st.integers(0, 30000))
def test_heard_is_always_a_beginning_of_what_was_written(spans: list[tuple[str, int]], position: int) -> None:
    ledger = HeardLedger()
    for text, samples in spans:
        ledger.add(" ".join(text.split()), samples)
    assert ledger.text.startswith(ledger.heard(position))
    assert len(ledger.heard(position)) <= len(ledger.heard(position + 1))
