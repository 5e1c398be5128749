"""Playout: what is sent when, and what counts as heard."""

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.level import FLOOR_DB
from fastagent.media.playout import Playout, PlayoutAction, RenderedSpeech, SendAudio, SendMark
from fastagent.media.speech.rendering import encode_speech
from tests.support.audio import tone

LOUD = 0x80  # mu-law: the loudest positive sample
LEAD_MS = 400
START_S = 0.06  # what playout counts on from sending to playing, as long as it knows nothing better
PLAYING = 10.0 + START_S  # when what was sent at 10.0 is heard
HEARD_115_MS = PLAYING + 0.115


def sentence(payload: bytes, text: str = "words") -> RenderedSpeech:
    return encode_speech(text, PCMU_8K.decode(payload), PCMU_8K)


def seconds(length: float, text: str = "words") -> RenderedSpeech:
    return sentence(bytes((LOUD,)) * round(length * 8000), text)


def answer(*sentences: RenderedSpeech) -> Playout:
    playout = Playout(PCMU_8K)
    playout.begin()
    for one in sentences:
        playout.write(one)
    return playout


def sizes(actions: list[PlayoutAction]) -> list[int | str]:
    """Bytes of audio and names of marks, in order."""
    return [len(action.payload) if isinstance(action, SendAudio) else action.name for action in actions]


# -- pacing ----------------------------------------------------------------------------------------------------------


def test_an_answer_starts_at_once_with_its_whole_lead() -> None:
    playout = answer(seconds(3))
    assert sizes(playout.tick(10.0)) == [1600, "1:1600", 1600, "1:3200"]
    assert playout.stats.frames_sent == 20


def test_the_next_chunk_goes_out_when_the_caller_has_heard_one() -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    assert playout.tick(PLAYING + 0.19) == []
    assert sizes(playout.tick(PLAYING + 0.201)) == [1600, "1:4800"]
    assert playout.tick(PLAYING + 0.221) == []
    assert sizes(playout.tick(PLAYING + 0.401)) == [1600, "1:6400"]


def test_a_late_tick_sends_all_that_is_due() -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    assert sizes(playout.tick(PLAYING + 0.401)) == [1600, "1:4800", 1600, "1:6400"]
    assert playout.stats.underruns == 1


def test_the_end_of_an_answer_may_be_a_short_chunk_of_whole_frames() -> None:
    playout = answer(seconds(0.25))
    assert sizes(playout.tick(10.0)) == [1600, "1:1600", 480, "1:2080"]


def test_what_is_sent_is_what_was_written_padded_with_silence_to_whole_frames() -> None:
    playout = answer(sentence(bytes((LOUD,)) * 100), sentence(bytes((LOUD,)) * 170))
    sent = b"".join(action.payload for action in playout.tick(10.0) if isinstance(action, SendAudio))
    assert sent == bytes((LOUD,)) * 100 + b"\xff" * 60 + bytes((LOUD,)) * 170 + b"\xff" * 150


def test_wideband_audio_goes_out_in_whole_frames_of_its_own_size() -> None:
    wide = AudioFormat("L16", 16000)
    playout = Playout(wide)
    playout.begin()
    playout.write(encode_speech("words", np.ones(16001, np.int16), wide))
    assert sizes(playout.tick(10.0)) == [6400, "1:3200", 6400, "1:6400"]
    assert playout.waiting_ms == 620


def test_nothing_written_is_nothing_sent() -> None:
    playout = answer()
    assert playout.tick(10.0) == []
    assert (playout.speaking, playout.finished, playout.waiting_ms) == (False, False, 0)
    playout.write(sentence(b"", "no audio"))
    assert playout.tick(10.0) == []
    assert playout.ledger.heard(playout.position(10.0)) == "no audio"


def test_what_is_written_and_not_sent_is_waiting() -> None:
    playout = answer(seconds(3))
    assert playout.waiting_ms == 3000
    playout.tick(10.0)
    assert playout.waiting_ms == 2600


def test_a_far_side_that_ran_dry_is_counted_and_gets_a_whole_lead() -> None:
    playout = answer(seconds(0.2))
    playout.tick(10.0)
    playout.write(seconds(1))
    assert sizes(playout.tick(12.0)) == [1600, "1:3200", 1600, "1:4800"]
    assert playout.stats.underruns == 1


def test_the_beginning_of_an_answer_is_no_underrun() -> None:
    playout = answer(seconds(1))
    playout.tick(10.0)
    playout.begin()
    playout.write(seconds(1))
    playout.tick(20.0)
    playout.pause(20.1)
    playout.resume(21.0)
    playout.tick(21.0)
    assert playout.stats.underruns == 0


@pytest.mark.parametrize(("lead_ms", "chunk_ms"), [(100, 200), (400, 0), (400, -20), (0, 0)])
def test_a_chunk_longer_than_the_lead_or_none_at_all_is_refused(lead_ms: int, chunk_ms: int) -> None:
    with pytest.raises(ValueError, match="chunk_ms"):
        Playout(PCMU_8K, lead_ms=lead_ms, chunk_ms=chunk_ms)


def test_a_chunk_shorter_than_a_frame_is_refused_since_nothing_could_ever_be_sent() -> None:
    with pytest.raises(ValueError, match="chunk_ms"):
        Playout(PCMU_8K, lead_ms=400, chunk_ms=19)


def test_a_chunk_is_cut_to_whole_frames() -> None:
    playout = Playout(PCMU_8K, lead_ms=200, chunk_ms=50)
    playout.begin()
    playout.write(seconds(1))
    assert sizes(playout.tick(10.0)) == [320, "1:320", 320, "1:640", 320, "1:960", 320, "1:1280", 320, "1:1600"]


# -- hearing ---------------------------------------------------------------------------------------------------------


def test_the_clock_says_what_was_heard_until_a_mark_does() -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    assert playout.position(10.0) == 0
    assert playout.position(PLAYING) == 0
    assert playout.position(PLAYING + 0.1) == pytest.approx(800, abs=1)
    assert playout.mark_reached("1:1600", 10.3)
    assert playout.position(10.3) == 1600
    assert playout.position(10.4) == pytest.approx(2400, abs=1)


def test_the_clock_is_believed_for_one_chunk_beyond_the_last_mark() -> None:
    playout = answer(seconds(3))
    for tick in range(60):
        playout.tick(10.0 + tick * 0.02)
    assert playout.position(11.2) == 1600
    playout.mark_reached("1:1600", 11.2)
    assert playout.position(20.0) == 3200


def test_no_more_is_heard_than_was_sent() -> None:
    playout = answer(seconds(0.1))
    playout.tick(10.0)
    assert playout.position(99.0) == 800


def test_an_answer_is_finished_when_all_is_written_and_heard() -> None:
    playout = answer(seconds(0.2))
    playout.tick(10.0)
    assert (playout.speaking, playout.finished) == (True, False)
    playout.flush()
    assert not playout.finished
    assert playout.mark_reached("1:1600", 10.3)
    assert (playout.speaking, playout.finished) == (False, True)


def test_an_answer_that_may_go_on_is_not_finished() -> None:
    playout = answer(seconds(0.2))
    playout.tick(10.0)
    playout.mark_reached("1:1600", 10.3)
    assert (playout.speaking, playout.finished) == (False, False)
    playout.write(seconds(0.2))
    assert playout.speaking


def test_an_empty_answer_is_finished_when_it_is_flushed() -> None:
    playout = answer()
    playout.flush()
    assert playout.finished


@pytest.mark.parametrize(
    "name",
    ["0:1600", "2:1600", "1:0", "1:3201", "1:99999", "1:-1600", "1:", ":1600", "1600", "", "1:1600:", "1:16e2",
     "01:1600",
     " 1:1600", "1:²", "hello", "1:1600\n"],
)  # fmt: skip
def test_a_mark_that_we_did_not_set_proves_nothing(name: str) -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    assert not playout.mark_reached(name, 10.0)
    assert playout.position(10.0) == 0


def test_a_mark_with_a_number_of_absurd_length_proves_nothing() -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    assert not playout.mark_reached("1:" + "9" * 5000, 10.0)


def test_a_mark_counts_once() -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    assert playout.mark_reached("1:3200", 10.5)
    assert not playout.mark_reached("1:3200", 10.6)
    assert not playout.mark_reached("1:1600", 10.6)
    assert playout.position(10.6) == 3200


def test_marks_of_the_answer_before_prove_nothing() -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    playout.begin()
    playout.write(seconds(3))
    assert sizes(playout.tick(11.0))[1] == "2:1600"
    assert not playout.mark_reached("1:1600", 11.1)


def test_missing_marks_are_overdue_when_all_that_was_sent_should_have_been_heard() -> None:
    playout = answer(seconds(3))
    assert playout.overdue_s(10.0) == 0
    playout.tick(10.0)
    assert playout.overdue_s(PLAYING + 0.2) == pytest.approx(-0.2)
    assert playout.overdue_s(PLAYING + 1.4) == pytest.approx(1.0)
    playout.mark_reached("1:1600", 11.5)
    assert playout.overdue_s(11.5) == pytest.approx(-0.2)
    playout.mark_reached("1:3200", 11.5)
    assert playout.overdue_s(99.0) == 0


def test_when_marks_do_not_come_the_clock_stands_for_them() -> None:
    playout = answer(seconds(0.2))
    playout.tick(10.0)
    playout.flush()
    playout.assume_heard()
    assert (playout.position(20.0), playout.finished, playout.overdue_s(20.0)) == (1600, True, 0)


def test_the_words_that_were_heard_follow_the_position() -> None:
    playout = answer(seconds(1.0, "one two"), seconds(1.0, "three four"))
    playout.tick(10.0)
    for mark in (1600, 3200):
        playout.mark_reached(f"1:{mark}", 10.5)
        playout.tick(10.5)
    playout.mark_reached("1:6400", 11.0)
    assert playout.ledger.heard(playout.position(11.0)) == "one two"
    assert playout.ledger.text == "one two three four"


# -- interruption ----------------------------------------------------------------------------------------------------


def test_a_pause_returns_what_was_heard_in_whole_frames_and_sends_no_more() -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    assert playout.pause(HEARD_115_MS) == 800  # five frames and a bit
    assert playout.tick(10.2) == playout.tick(20.0) == []
    assert (playout.paused, playout.speaking, playout.finished) == (True, False, False)
    assert playout.position(20.0) == 800
    assert playout.stats.clears == 1


def test_marks_that_a_clear_sets_free_are_not_hearing() -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    playout.pause(HEARD_115_MS)
    assert not playout.mark_reached("1:1600", 10.2)
    assert not playout.mark_reached("1:3200", 10.2)
    playout.resume(11.0)
    playout.tick(11.0)
    assert not playout.mark_reached("1:1600", 11.01)
    assert playout.position(11.0) == 800


def test_a_resumed_answer_goes_on_where_it_was_heard_with_marks_of_a_new_epoch() -> None:
    playout = answer(seconds(0.6))
    playout.tick(10.0)
    playout.pause(HEARD_115_MS)
    playout.resume(11.0)
    assert not playout.paused
    assert sizes(playout.tick(11.0)) == [1600, "2:2400", 1600, "2:4000"]
    assert sizes(playout.tick(11.4)) == [800, "2:4800"]
    playout.flush()
    assert playout.mark_reached("2:4800", 12.0)
    assert playout.finished
    assert playout.stats.resumes == 1


def test_a_resumed_answer_fades_in_over_10_ms() -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    playout.pause(HEARD_115_MS)
    playout.resume(11.0)
    first = playout.tick(11.0)[0]
    assert isinstance(first, SendAudio)
    heard = PCMU_8K.decode(first.payload).tolist()
    assert heard[0] == 0
    assert heard[:80] == sorted(heard[:80])
    assert heard[40] == pytest.approx(16062, rel=0.05)
    assert heard[79] > 30000
    assert heard[80:] == [32124] * (len(heard) - 80)


def test_a_fade_at_the_very_end_stays_within_the_answer() -> None:
    playout = answer(seconds(0.02))
    playout.tick(10.0)
    playout.pause(10.0)
    playout.resume(10.0)
    assert sizes(playout.tick(10.0)) == [160, "2:160"]


def test_an_answer_that_was_heard_to_its_end_has_nothing_to_resume() -> None:
    playout = answer(seconds(0.2))
    playout.tick(10.0)
    playout.flush()
    playout.mark_reached("1:1600", 10.3)
    assert playout.pause(10.3) == 1600
    assert not playout.finished
    playout.resume(10.5)
    assert playout.tick(10.5) == []
    assert playout.finished


def test_an_answer_may_be_held_back_before_its_first_sound() -> None:
    playout = answer(seconds(1))
    assert playout.pause(10.0) == 0
    playout.write(seconds(1))
    assert playout.tick(10.1) == []
    playout.resume(10.2)
    assert sizes(playout.tick(10.2)) == [1600, "2:1600", 1600, "2:3200"]


def test_a_second_pause_keeps_the_position_of_the_first() -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    assert playout.pause(HEARD_115_MS) == playout.pause(15.0) == 800


def test_a_resume_of_what_was_not_paused_changes_nothing() -> None:
    playout = answer(seconds(3))
    playout.tick(10.0)
    playout.resume(10.1)
    assert playout.tick(10.1) == []  # 400 ms are under way: the lead is used up
    assert playout.stats.resumes == 0


def test_a_new_answer_forgets_the_pause_of_the_last_one() -> None:
    playout = answer(seconds(3, "old"))
    playout.tick(10.0)
    playout.pause(10.1)
    playout.begin()
    assert not playout.paused
    playout.write(seconds(0.2, "new"))
    assert sizes(playout.tick(10.2)) == [1600, "3:1600"]
    assert playout.ledger.text == "new"


# -- loudness --------------------------------------------------------------------------------------------------------


def test_our_loudness_counts_while_it_is_heard_and_as_long_as_its_echo_may_last() -> None:
    playout = Playout(PCMU_8K)
    playout.begin()
    assert playout.level_db(10.0) == FLOOR_DB
    playout.write(encode_speech("words", tone(0.2, level=1.0), PCMU_8K))
    playout.tick(10.0)
    assert playout.level_db(PLAYING) == pytest.approx(-3.0, abs=0.2)
    assert playout.level_db(PLAYING + 0.79) == pytest.approx(-3.0, abs=0.2)
    assert playout.level_db(PLAYING + 0.81) == FLOOR_DB


def test_the_loudest_of_what_may_echo_counts() -> None:
    playout = Playout(PCMU_8K)
    playout.begin()
    playout.write(encode_speech("loud", tone(0.2, level=1.0), PCMU_8K))
    playout.write(encode_speech("quiet", tone(1.0, level=0.1), PCMU_8K))
    for tick in range(70):
        playout.tick(10.0 + tick * 0.02)
    assert playout.level_db(PLAYING + 0.79) == pytest.approx(-3.0, abs=0.2)
    assert playout.level_db(PLAYING + 0.81) == pytest.approx(-23.0, abs=0.2)


def test_what_a_pause_cut_off_makes_no_echo() -> None:
    playout = Playout(PCMU_8K)
    playout.begin()
    playout.write(encode_speech("quiet", tone(0.2, level=0.1), PCMU_8K))
    playout.write(encode_speech("loud", tone(0.2, level=1.0), PCMU_8K))
    playout.tick(10.0)
    playout.pause(10.1)
    assert playout.level_db(10.65) == pytest.approx(-23.0, abs=0.2)
    assert playout.level_db(10.71) == FLOOR_DB


# -- against a far side that plays -----------------------------------------------------------------------------------


@dataclass
class FarSide:
    """Plays frames of 20 ms on a grid of its own; audio takes `there_ms` to it, echoes of marks take `back_ms`."""

    phase_ms: int
    there_ms: int
    back_ms: int
    received: int = 0
    """Samples that were sent to it and not cleared."""
    played: int = 0
    """Samples that were played to their end."""
    _queued: int = 0
    _playing_since: int | None = None
    _next_ms: int = 0
    _on_the_way: deque[tuple[int, int]] = field(default_factory=deque)
    _marks: deque[tuple[int, str]] = field(default_factory=deque)
    _echoes: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next_ms = self.phase_ms

    def run_until(self, now_ms: int) -> None:
        while self._next_ms <= now_ms:
            self._play()
            self._next_ms += 20

    def _play(self) -> None:
        while self._on_the_way and self._on_the_way[0][0] <= self._next_ms:
            self._queued += self._on_the_way.popleft()[1]
        if self._playing_since is not None:
            self.played, self._playing_since = self.played + 160, None
        while self._marks and self._marks[0][0] <= self.played:
            self._echo(self._marks.popleft()[1], self._next_ms)
        if self._queued:
            self._queued, self._playing_since = self._queued - 160, self._next_ms

    def heard(self, now_ms: int) -> int:
        """Samples that the caller has heard."""
        return self.played + (0 if self._playing_since is None else (now_ms - self._playing_since) * 8)

    def _echo(self, name: str, now_ms: int) -> None:
        self._echoes.append((now_ms + self.back_ms, name))

    def receive(self, action: PlayoutAction, now_ms: int) -> None:
        if isinstance(action, SendAudio):
            self._on_the_way.append((now_ms + self.there_ms, len(action.payload)))
            self.received += len(action.payload)
        else:
            self._marks.append((self.received, action.name))

    def clear(self, now_ms: int) -> None:
        """Fall silent at once and echo all marks, as Twilio does."""
        self.received = self.played = self.heard(now_ms)
        self._queued, self._playing_since = 0, None
        self._on_the_way.clear()
        for _, name in self._marks:
            self._echo(name, now_ms)
        self._marks.clear()

    def echoes(self, now_ms: int) -> list[str]:
        due = [name for at, name in self._echoes if at <= now_ms]
        self._echoes = [one for one in self._echoes if one[0] > now_ms]
        return due


Operation = tuple[Literal["write", "wait", "pause", "resume", "begin"], int]

waits = st.tuples(st.just("wait"), st.sampled_from([0, 1, 3, 19, 20, 20, 60, 200, 1000]))
writes = st.tuples(st.just("write"), st.sampled_from([1, 100, 160, 300, 1600, 1700, 4000, 9000]))
controls = st.tuples(st.sampled_from(["pause", "resume", "begin"]), st.just(0))
far_sides = st.builds(
    FarSide,
    phase_ms=st.integers(0, 19),
    there_ms=st.integers(0, 40),
    back_ms=st.sampled_from([0, 1, 20, 60, 150]),
)


class Call:
    """A playout and its far side, and what must be true of them after every step."""

    def __init__(self, far: FarSide, *, slack: int = 0) -> None:
        self.slack = slack
        self.playout = Playout(PCMU_8K, lead_ms=LEAD_MS)
        self.far = far
        self.now_ms = 0
        self.random = Random(1)
        self.names: list[str] = []
        self.epoch_from = 0
        self.begin()

    @property
    def now(self) -> float:
        return 100 + self.now_ms / 1000

    def begin(self) -> None:
        self.playout.begin()
        self.far.clear(self.now_ms)
        self.written = bytearray()
        self.sent = bytearray()
        self.faded: set[int] = set()
        self.epoch_from = len(self.names)
        self.heard_before = self.far.heard(self.now_ms)

    def do(self, operation: Operation) -> None:
        what, size = operation
        if what == "write":
            payload = self.random.randbytes(size).replace(b"\x7f", b"\xff")
            self.playout.write(sentence(payload))
            self.written += payload + b"\xff" * (-size % 160)
            self.step(0)
        elif what == "wait":
            self.step(size)
        elif what == "begin":
            self.begin()
        elif what == "pause":
            if not self.playout.paused:
                self.pause()
        elif self.playout.paused:
            self.playout.resume(self.now)
            self.faded.update(range(len(self.sent), len(self.sent) + 80))
            self.step(0)

    def pause(self) -> None:
        position = self.playout.pause(self.now)
        assert position % 160 == 0
        assert position <= len(self.sent)
        del self.sent[position:]
        self.far.clear(self.now_ms)
        self.epoch_from = len(self.names)
        self.heard_before = self.far.heard(self.now_ms) - position

    def step(self, ms: int) -> None:
        for _ in range(ms // 20):
            self._step(20)
        self._step(ms % 20)

    def _step(self, ms: int) -> None:
        self.now_ms += ms
        self.far.run_until(self.now_ms)
        for name in self.far.echoes(self.now_ms):
            counted = self.playout.mark_reached(name, self.now)
            assert not counted or name in self.names[self.epoch_from :]
        for action in self.playout.tick(self.now):
            self._send(action)
        self._check()

    def _send(self, action: PlayoutAction) -> None:
        assert not self.playout.paused
        self.far.receive(action, self.now_ms)
        if isinstance(action, SendMark):
            assert action.name not in self.names
            self.names.append(action.name)
        else:
            assert len(action.payload) % 160 == 0
            self.sent += action.payload

    def _check(self) -> None:
        position, heard = self.playout.position(self.now), self.far.heard(self.now_ms)
        assert self.far.received - heard <= LEAD_MS * 8 + self.slack
        assert 0 <= position <= len(self.sent) <= len(self.written)
        assert position <= heard - self.heard_before + self.slack  # what we say was heard was heard
        assert self.playout.waiting_ms == (len(self.written) - len(self.sent)) * 1000 // 8000

    def finish(self) -> None:
        if self.playout.paused:
            self.do(("resume", 0))
        self.playout.flush()
        for _ in range(10_000):
            if self.playout.finished:
                break
            self.step(20)
        assert self.playout.finished
        assert len(self.sent) == len(self.written)
        assert all(self.sent[at] == self.written[at] for at in range(len(self.sent)) if at not in self.faded)


def run(call: Call, operations: list[Operation]) -> None:
    for operation in operations:
        call.do(operation)
    call.finish()


@given(
    far=far_sides, sentences=st.lists(writes, max_size=6), operations=st.lists(st.one_of(waits, controls), max_size=25)
)
@settings(max_examples=100)
def test_the_lead_is_kept_and_no_more_counts_as_heard_than_was_of_an_answer_written_ahead(
    far: FarSide, sentences: list[Operation], operations: list[Operation]
) -> None:
    run(Call(far), [*sentences, *operations])


@given(far=far_sides, operations=st.lists(st.one_of(writes, waits, controls), max_size=25))
@settings(max_examples=100)
def test_whatever_happens_all_that_was_written_is_heard_once_in_order(
    far: FarSide, operations: list[Operation]
) -> None:
    # Sentences that come so slowly that the far side runs dry blur the clock by what it counts on for a start.
    run(Call(far, slack=round(START_S * 8000)), operations)
