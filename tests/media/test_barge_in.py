"""Barge-in: each row of the table."""

import pytest

from fastagent.media.barge_in import BargeIn, Verdict, is_backchannel, words
from fastagent.media.turn_config import TurnConfig


def paused(config: TurnConfig | None = None) -> BargeIn:
    barge_in = BargeIn(config or TurnConfig())
    assert barge_in.speech_started() is Verdict.PAUSE
    return barge_in


# -- the table -------------------------------------------------------------------------------------------------------


def test_idle_speech_started_pauses() -> None:
    barge_in = BargeIn(TurnConfig())
    assert not barge_in.paused
    assert barge_in.speech_started() is Verdict.PAUSE
    assert barge_in.paused


@pytest.mark.parametrize(
    ("config", "speech_s", "verdict"),
    [
        pytest.param({}, 0.99, None, id="may still be a backchannel"),
        pytest.param({}, 1.0, Verdict.INTERRUPT, id="longer than any backchannel"),
        pytest.param({"backchannel_duration": 0.3}, 0.49, None, id="shorter than an interruption"),
        pytest.param({"backchannel_duration": 0.3}, 0.5, Verdict.INTERRUPT, id="as long as an interruption"),
        pytest.param({"min_interruption_duration": 2.0}, 1.9, None, id="a longer interruption wanted"),
        pytest.param({"min_interruption_duration": 2.0}, 2.0, Verdict.INTERRUPT, id="and come"),
        pytest.param({"min_interruption_words": 1}, 25.0, None, id="only words interrupt"),
    ],
)
def test_paused_speech_goes_on(config: dict[str, float], speech_s: float, verdict: Verdict | None) -> None:
    barge_in = paused(TurnConfig.of(config))
    assert barge_in.speech_goes_on(speech_s) is verdict
    assert barge_in.paused is (verdict is None)


@pytest.mark.parametrize(
    ("text", "confidence", "speech_s", "verdict"),
    [
        pytest.param("Wait a moment.", 0.9, 0.6, Verdict.INTERRUPT, id="words"),
        pytest.param("Stop", None, 0.3, Verdict.INTERRUPT, id="one word, confidence unknown"),
        pytest.param("No.", 0.4, 0.3, Verdict.INTERRUPT, id="one word, believed enough"),
        pytest.param("mm-hm", 0.9, 0.4, Verdict.RESUME, id="backchannel"),
        pytest.param("Okay.", None, 5.0, Verdict.RESUME, id="a long backchannel"),
        pytest.param("", 0.9, 0.4, Verdict.RESUME, id="no words"),
        pytest.param(" ... ", None, 2.0, Verdict.RESUME, id="punctuation only"),
        pytest.param("Thank you.", 0.39, 0.99, Verdict.RESUME, id="a short guess"),
        pytest.param("Thank you.", 0.39, 1.0, Verdict.INTERRUPT, id="a long guess is speech"),
        pytest.param("Thank you.", 0.0, 0.5, Verdict.RESUME, id="no belief at all"),
    ],
)
def test_paused_words_are_known(text: str, confidence: float | None, speech_s: float, verdict: Verdict) -> None:
    barge_in = paused()
    assert barge_in.transcript(text, confidence=confidence, speech_s=speech_s) is verdict
    assert not barge_in.paused


def test_paused_with_too_few_words_nothing_is_decided_until_there_are_enough() -> None:
    barge_in = paused(TurnConfig(min_interruption_words=3))
    assert barge_in.transcript("Wait please", confidence=0.9, speech_s=0.8) is None
    assert barge_in.paused
    assert barge_in.transcript("Wait please, stop", confidence=0.9, speech_s=1.5) is Verdict.INTERRUPT


def test_a_backchannel_is_none_however_many_words_are_wanted() -> None:
    assert paused(TurnConfig(min_interruption_words=3)).transcript("uh-huh", confidence=1, speech_s=1) is Verdict.RESUME


@pytest.mark.parametrize(("silence_s", "verdict"), [(0.0, None), (1.99, None), (2.0, Verdict.RESUME)])
def test_paused_nothing_decided(silence_s: float, verdict: Verdict | None) -> None:
    barge_in = paused()
    assert barge_in.silent(silence_s) is verdict
    assert barge_in.paused is (verdict is None)


def test_idle_only_a_start_means_anything() -> None:
    barge_in = BargeIn(TurnConfig())
    assert barge_in.speech_goes_on(60) is None
    assert barge_in.transcript("Stop talking now", confidence=1.0, speech_s=3) is None
    assert barge_in.silent(60) is None
    assert not barge_in.paused


def test_a_decision_is_made_once() -> None:
    barge_in = paused()
    assert barge_in.speech_goes_on(1.0) is Verdict.INTERRUPT
    assert barge_in.speech_goes_on(1.1) is None
    assert barge_in.transcript("Stop", confidence=1.0, speech_s=1.1) is None
    assert barge_in.silent(9) is None


def test_after_a_decision_the_next_speech_pauses_again() -> None:
    barge_in = paused()
    assert barge_in.transcript("mm", confidence=1, speech_s=0.3) is Verdict.RESUME
    assert barge_in.speech_started() is Verdict.PAUSE
    assert barge_in.transcript("but wait", confidence=1, speech_s=0.5) is Verdict.INTERRUPT


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["Mm-hm.", "mm hm", "Mm-hmm", "Mm hmm.", "Uh-huh!", "Uh huh.", "uh huh, uh huh", "Yeah.", "Yeah, yeah.", "OK",
     "okay",
     "Right.", "I see.", "Oh, I see.", "Oh wow", "Sure, sure, sure.", "Hmm...", "Huh?", "yep", "Ah. Okay. Right."],
)  # fmt: skip
def test_a_listener_s_noises_are_backchannels(text: str) -> None:
    assert is_backchannel(text)


@pytest.mark.parametrize(
    "text",
    ["", "...", "Yes.", "No.", "Wait.", "Yeah, but no.", "Okay, stop.", "I see you", "Right now", "Hello?",
     "Okay okay okay okay", "oh no", "What?", "I'm sure", "sea", "Uh, actually"],
)  # fmt: skip
def test_words_that_want_something_are_none(text: str) -> None:
    assert not is_backchannel(text)


def test_uh_uh_means_no() -> None:
    assert not is_backchannel("Uh-uh.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, please!", ["don't", "stop", "please"]),
        ("Mm-hm... 42?", ["mm-hm", "42"]),
        ("-- '' !", []),
        ("", []),
    ],
)
def test_words_are_lower_case_without_punctuation(text: str, expected: list[str]) -> None:
    assert words(text) == expected
