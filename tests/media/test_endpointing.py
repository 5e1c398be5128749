"""Endpointing: verdicts on windows in, beginnings and ends of utterances out.

A window is 32 ms, 256 samples at 8 kHz. Silences are counted to the nearest window: 0.2 s are 6 of them, 0.4 s are 12,
1.5 s are 47.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.media.endpointing import (
    Endpointer,
    EndpointEvent,
    Phase,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
)
from fastagent.media.turn_config import TurnConfig
from fastagent.media.vad.service import VadWindow

W = 256
TENTATIVE, SHORT, LONG = 6, 12, 47  # windows of silence

# How a window sounds: its probability of speech, and its level.
SOUNDS = {
    "S": (0.9, -20.0),
    "s": (0.9, -45.0),  # the model believes, but it is 25 dB below the loudest
    "t": (0.9, -46.5),  # and this is more than 26 dB below
    "h": (0.4, -20.0),  # between the threshold and the hysteresis
    "m": (0.34, -20.0),  # below both
    ".": (0.1, -60.0),
}


class Caller:
    """An endpointer, and a caller who makes sounds."""

    def __init__(self, *, start_windows: int = 2, gate_db: float = -97.0, **config: Any) -> None:
        self.endpointer = Endpointer(TurnConfig(**config), rate_hz=8000, window_samples=W)
        self.start_windows, self.gate_db = start_windows, gate_db
        self.now = 0

    def sounds(self, windows: str) -> list[tuple[int, EndpointEvent]]:
        """The events, each with the number of its window."""
        events = []
        for sound in windows:
            self.now += 1
            window = VadWindow(self.now * W, *SOUNDS[sound])
            event = self.endpointer.observe(window, start_windows=self.start_windows, gate_db=self.gate_db)
            if event is not None:
                events.append((self.now, event))
        return events

    def speaks(self, windows: int = 10) -> "Caller":
        self.sounds("S" * windows)
        assert self.endpointer.phase is Phase.SPEECH
        return self

    def pauses(self) -> "Caller":
        self.sounds("." * TENTATIVE)
        assert self.endpointer.phase is Phase.PAUSE
        return self


# -- the beginning ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("windows", "start_windows", "events"),
    [
        pytest.param("....", 2, [], id="silence"),
        pytest.param("S.S.S.", 2, [], id="clicks"),
        pytest.param("SS", 2, [(2, SpeechStarted(0, 2 * W))], id="two in a row"),
        pytest.param(".S.SS", 2, [(5, SpeechStarted(3 * W, 5 * W))], id="a click before"),
        pytest.param("SSSS", 3, [(3, SpeechStarted(0, 3 * W))], id="three wanted"),
        pytest.param("SSmSS", 3, [], id="three wanted, one missing"),
        pytest.param("S", 1, [(1, SpeechStarted(0, W))], id="one is enough"),
        pytest.param("S", 0, [(1, SpeechStarted(0, W))], id="none wanted is one wanted"),
        pytest.param("hhhh", 2, [], id="below the threshold"),
        pytest.param("ss", 2, [(2, SpeechStarted(0, 2 * W))], id="quiet, but no gate"),
    ],
)
def test_speech_starts(windows: str, start_windows: int, events: list[tuple[int, EndpointEvent]]) -> None:
    assert Caller(start_windows=start_windows).sounds(windows) == events


@pytest.mark.parametrize(("gate_db", "starts"), [(-21.0, True), (-20.0, False), (-10.0, False)])
def test_a_start_must_be_louder_than_the_gate(gate_db: float, starts: bool) -> None:
    caller = Caller(gate_db=gate_db)
    assert bool(caller.sounds("SSSS")) is starts


def test_speech_that_has_begun_needs_no_gate() -> None:
    caller = Caller().speaks()
    caller.gate_db = 0.0
    assert caller.sounds("S" * 50) == []
    assert caller.endpointer.phase is Phase.SPEECH


def test_the_threshold_is_the_configured_one() -> None:
    assert Caller(vad_threshold=0.4).sounds("hh") == [(2, SpeechStarted(0, 2 * W))]
    assert Caller(vad_threshold=0.95).sounds("SSSS") == []


# -- the tentative end -----------------------------------------------------------------------------------------------


def test_a_pause_comes_after_200_ms_of_silence() -> None:
    caller = Caller().speaks(10)
    assert caller.sounds("." * 5) == []
    assert caller.sounds(".") == [(16, SpeechPaused(10 * W))]


def test_a_shorter_silence_is_part_of_the_utterance() -> None:
    caller = Caller().speaks(10)
    assert caller.sounds("....." + "S" + "....." + "S") == []
    assert caller.endpointer.phase is Phase.SPEECH


@pytest.mark.parametrize(
    ("sound", "goes_on"),
    [
        pytest.param("S", True, id="speech"),
        pytest.param("h", True, id="less sure, within the hysteresis"),
        pytest.param("m", False, id="below the hysteresis"),
        pytest.param("s", True, id="25 dB quieter"),
        pytest.param("t", False, id="26 dB quieter is silence whatever the model says"),
        pytest.param(".", False, id="silence"),
    ],
)
def test_speech_goes_on(sound: str, goes_on: bool) -> None:
    caller = Caller().speaks(10)
    events = caller.sounds(sound * TENTATIVE)
    assert events == ([] if goes_on else [(16, SpeechPaused(10 * W))])


def test_the_loudest_window_of_this_utterance_is_the_measure() -> None:
    caller = Caller()
    caller.sounds("t" * 10)
    assert caller.endpointer.phase is Phase.SPEECH  # quiet from the start: nothing louder to compare with
    caller.sounds("S")
    assert caller.sounds("t" * TENTATIVE) == [(17, SpeechPaused(11 * W))]


# -- the confirmed end -----------------------------------------------------------------------------------------------


def test_text_that_looks_complete_ends_the_utterance_after_the_short_delay() -> None:
    caller = Caller().speaks(10).pauses()
    assert caller.endpointer.offer(True) is None
    assert caller.sounds("." * (SHORT - TENTATIVE - 1)) == []
    assert caller.sounds(".") == [(22, SpeechEnded(0, 10 * W))]
    assert caller.endpointer.phase is Phase.QUIET


def test_text_that_looks_unfinished_ends_the_utterance_after_the_long_delay() -> None:
    caller = Caller().speaks(10).pauses()
    assert caller.endpointer.offer(False) is None
    assert caller.sounds("." * (LONG - TENTATIVE - 1)) == []
    assert caller.sounds(".") == [(57, SpeechEnded(0, 10 * W))]


@pytest.mark.parametrize(
    ("complete", "silent", "ends"),
    [(True, SHORT - 1, False), (True, SHORT, True), (False, LONG - 1, False), (False, LONG, True)],
)
def test_text_that_comes_late_ends_the_utterance_at_once_if_the_silence_is_long_enough(
    complete: bool, silent: int, ends: bool
) -> None:
    caller = Caller().speaks(10)
    caller.sounds("." * silent)
    assert caller.endpointer.offer(complete) == (SpeechEnded(0, 10 * W) if ends else None)


def test_without_its_text_an_utterance_does_not_end() -> None:
    caller = Caller().speaks(10)
    assert caller.sounds("." * 500) == [(16, SpeechPaused(10 * W))]


def test_a_second_opinion_on_the_text_counts() -> None:
    caller = Caller().speaks(10).pauses()
    caller.endpointer.offer(False)
    caller.endpointer.offer(True)
    assert caller.sounds("." * (SHORT - TENTATIVE))[-1][1] == SpeechEnded(0, 10 * W)


@pytest.mark.parametrize("windows", ["", "SS", "SS....."])
def test_text_offered_outside_a_pause_means_nothing(windows: str) -> None:
    caller = Caller()
    caller.sounds(windows)
    assert caller.endpointer.offer(True) is None
    caller.sounds("SS" + "." * 500)
    assert caller.endpointer.phase is Phase.PAUSE


# -- going on --------------------------------------------------------------------------------------------------------


def test_speech_in_a_pause_takes_the_utterance_up_again() -> None:
    caller = Caller().speaks(10).pauses()
    assert caller.sounds("S") == [(17, SpeechResumed(17 * W))]
    assert caller.endpointer.phase is Phase.SPEECH


def test_one_window_resumes_but_only_a_sure_one() -> None:
    caller = Caller().speaks(10).pauses()
    assert caller.sounds("hhht") == []
    assert caller.sounds("S") == [(21, SpeechResumed(21 * W))]


def test_the_text_of_a_pause_is_void_when_the_caller_goes_on() -> None:
    caller = Caller().speaks(10).pauses()
    caller.endpointer.offer(True)
    caller.sounds("S")
    assert caller.sounds("." * 500) == [(23, SpeechPaused(17 * W))]


def test_an_utterance_that_went_on_ends_with_its_first_start_and_its_last_end() -> None:
    caller = Caller().speaks(10).pauses()
    caller.sounds("SS")
    caller.pauses()
    caller.endpointer.offer(True)
    assert caller.sounds("." * 6) == [(30, SpeechEnded(0, 18 * W))]


def test_the_next_utterance_starts_afresh() -> None:
    caller = Caller().speaks(10).pauses()
    caller.endpointer.offer(True)
    caller.sounds("." * 6)
    assert caller.sounds("ss") == [(24, SpeechStarted(22 * W, 24 * W))]  # 25 dB below the last one's loudest
    assert caller.sounds("." * 500) == [(30, SpeechPaused(24 * W))]  # and its old text is forgotten


# -- limits and measures ---------------------------------------------------------------------------------------------


def test_a_very_long_utterance_is_ended_where_it_is() -> None:
    caller = Caller(max_utterance=2.0)
    events = caller.sounds("S" * 70)
    # 62.5 windows are two seconds: recognition is asked for, and until it has answered speech changes nothing.
    assert events == [(2, SpeechStarted(0, 2 * W)), (63, SpeechPaused(63 * W))]
    assert caller.endpointer.offer(False) == SpeechEnded(0, 63 * W)
    # The next utterance begins right behind.
    assert caller.sounds("S" * 5) == [(72, SpeechStarted(70 * W, 72 * W))]


def test_the_lengths_of_speech_and_silence_are_told_in_seconds() -> None:
    caller = Caller()
    assert (caller.endpointer.speech_s, caller.endpointer.silence_s) == (0, 0)
    caller.speaks(10)
    assert (caller.endpointer.speech_s, caller.endpointer.silence_s) == (0.32, 0)
    caller.pauses()
    assert (caller.endpointer.speech_s, caller.endpointer.silence_s) == (0.32, 0.192)
    caller.endpointer.offer(True)
    caller.sounds("." * 6)
    assert caller.endpointer.speech_s == 0


def test_a_reset_forgets_the_utterance() -> None:
    caller = Caller().speaks(10).pauses()
    caller.endpointer.offer(True)
    caller.endpointer.reset()
    assert caller.endpointer.phase is Phase.QUIET
    assert caller.sounds("." * 100) == []
    assert caller.sounds("S") == []
    caller.endpointer.reset()
    assert caller.sounds("S") == []  # half a start is forgotten too


def test_windows_of_16_khz_are_measured_in_their_own_samples() -> None:
    endpointer = Endpointer(TurnConfig(), rate_hz=16000, window_samples=512)
    events = [
        endpointer.observe(VadWindow(at * 512, *SOUNDS[sound]), start_windows=2, gate_db=-97)
        for at, sound in enumerate("SS......", 1)
    ]
    assert [event for event in events if event] == [SpeechStarted(0, 1024), SpeechPaused(1024)]


def test_a_pause_as_long_as_the_short_delay_needs_no_further_silence() -> None:
    caller = Caller(tentative_after=0.4).speaks(10)
    caller.sounds("." * SHORT)
    assert caller.endpointer.offer(True) == SpeechEnded(0, 10 * W)


# -- properties ------------------------------------------------------------------------------------------------------

FOLLOWERS: dict[type[EndpointEvent] | None, set[type[EndpointEvent]]] = {
    None: {SpeechStarted},
    SpeechStarted: {SpeechPaused, SpeechEnded},
    SpeechPaused: {SpeechResumed, SpeechEnded},
    SpeechResumed: {SpeechPaused, SpeechEnded},
    SpeechEnded: {SpeechStarted},
}


@given(
    script=st.lists(
        st.tuples(st.sampled_from("SSSSShmst...."), st.integers(1, 20), st.sampled_from([None, True, False]))
    ),
    start_windows=st.integers(1, 4),
    max_utterance=st.sampled_from([1.0, 30.0]),
)
@settings(max_examples=100)
def test_events_follow_the_diagram_and_their_times_make_sense(
    script: list[tuple[str, int, bool | None]], start_windows: int, max_utterance: float
) -> None:
    caller = Caller(start_windows=start_windows, max_utterance=max_utterance)
    events: list[EndpointEvent] = []
    for sound, count, complete in script:
        events += [event for _, event in caller.sounds(sound * count)]
        ended = None if complete is None else caller.endpointer.offer(complete)
        events += [] if ended is None else [ended]
    before: type[EndpointEvent] | None = None
    start = end = 0
    for event in events:
        assert type(event) in FOLLOWERS[before]
        before = type(event)
        match event:
            case SpeechStarted():
                assert end <= event.start < event.at
                start = event.start
            case SpeechPaused():
                assert start < event.end
            case SpeechEnded():
                assert start == event.start < event.end
                assert event.end - event.start <= max_utterance * 8000 + LONG * W
                end = event.end
