"""The caller's audio, from packets to turns; all parts are real, with the VAD engine that goes by level."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastagent.media.barge_in import Verdict
from fastagent.media.endpointing import SpeechEnded, SpeechPaused, SpeechResumed, SpeechStarted
from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.inbound import InboundAudio
from fastagent.media.speech.contracts import Transcript
from fastagent.media.turn_config import TurnConfig
from fastagent.media.vad.engine import EnergyVad
from fastagent.media.vad.service import VadService
from tests.support.audio import tone, ulaw_tone
from tests.support.loop import InlineExecutor

L16 = AudioFormat("L16", 16000)
FLOOR = -97.0
PACKET = 160
LATE = 10_000.0  # so long after the first packet that nothing can be ahead of real time


class ListeningVad(EnergyVad):
    """Goes by level, and keeps what it was given, as int16."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def infer(
        self, windows: npt.NDArray[np.float32], states: npt.NDArray[np.float32], rate_hz: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        self.heard += np.rint(windows[0] * 32768).astype(int).tolist()
        return super().infer(windows, states, rate_hz)


class Recogniser:
    """Keeps the audio of the utterance."""

    def __init__(self) -> None:
        self.utterance = bytearray()
        self.restarts = 0

    def push(self, payload: bytes) -> None:
        self.utterance += payload

    async def finalize(self) -> Transcript:
        return Transcript("")

    def restart(self) -> None:
        self.utterance.clear()
        self.restarts += 1

    async def aclose(self) -> None:
        pass


@dataclass
class Listener:
    """Writes down what it is told; pauses its agent for every start if `speaking`."""

    speaking: bool = False
    windows: int = 2
    gate_db: float = FLOOR
    told: list[Any] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    on_paused: Callable[[], None] = lambda: None

    def sensitivity(self) -> tuple[int, float]:
        return self.windows, self.gate_db

    def speech_started(self, event: SpeechStarted) -> bool:
        self.told.append(event)
        return self.speaking

    def speech_paused(self, event: SpeechPaused) -> None:
        self.told.append(event)
        self.on_paused()

    def speech_resumed(self, event: SpeechResumed) -> None:
        self.told.append(event)

    def speech_ended(self, event: SpeechEnded) -> None:
        self.told.append(event)

    def barge_in(self, verdict: Verdict) -> None:
        self.told.append(verdict)

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    @property
    def kinds(self) -> list[str]:
        return [one.value if isinstance(one, Verdict) else type(one).__name__ for one in self.told]


class Caller:
    """A caller whose packets arrive in time."""

    def __init__(self, audio: AudioFormat = PCMU_8K, *, speaking: bool = False, **config: Any) -> None:
        self.engine = ListeningVad()
        self.vad = VadService(self.engine, executor=InlineExecutor())
        self.stt = Recogniser()
        self.listener = Listener(speaking=speaking)
        self.inbound = InboundAudio(
            audio, vad=self.vad, stt=self.stt, config=TurnConfig.of(config), listener=self.listener
        )
        self.audio = audio
        self.said = bytearray()
        self.packets = 0

    @property
    def stats(self) -> tuple[int, int, int, int]:
        """Samples kept, concealed, cut as duplicates, and dropped as too far ahead."""
        stats = self.inbound.stats
        return stats.samples, stats.concealed_samples, stats.duplicate_samples, stats.ahead_samples

    def push(self, samples: int, timestamp_ms: int | None, now: float | None = None) -> None:
        self.receives(self.audio.silence(samples), timestamp_ms, now)

    def receives(self, payload: bytes, timestamp_ms: int | None = None, now: float | None = None) -> None:
        """Push a packet; at a time that does not matter unless it is given."""
        first = self.inbound.stats.packets == 0
        self.inbound.push(payload, timestamp_ms, now if now is not None else 0.0 if first else LATE)

    async def says(self, payload: bytes) -> None:
        """Say this in packets of 20 ms."""
        loop = asyncio.get_running_loop()
        size = self.audio.frame_bytes
        for at in range(0, len(payload), size):
            self.inbound.push(payload[at : at + size], self.packets * 20, loop.time())
            self.packets += 1
            await asyncio.sleep(0.02)
        self.said += payload

    async def is_silent(self, seconds: float) -> None:
        await self.says(self.audio.silence(round(seconds * 50) * self.audio.frame_samples))

    async def speaks(self, seconds: float) -> None:
        await self.says(self.audio.encode(tone(round(seconds * 50) / 50, rate_hz=self.audio.rate_hz)))


# -- packets ---------------------------------------------------------------------------------------------------------


async def test_packets_in_order_are_kept_as_they_come() -> None:
    caller = Caller()
    for packet in range(10):
        caller.push(PACKET, packet * 20)
    assert caller.inbound.stats.packets == 10
    assert caller.stats == (1600, 0, 0, 0)


async def test_the_first_timestamp_may_be_anything() -> None:
    caller = Caller()
    caller.push(PACKET, 987_654)
    caller.push(PACKET, 987_674)
    assert caller.stats == (320, 0, 0, 0)


async def test_packets_without_timestamps_are_taken_one_after_the_other() -> None:
    caller = Caller()
    for size in (160, 1, 77):
        caller.push(size, None)
    assert caller.stats == (238, 0, 0, 0)


async def test_a_gap_is_filled_with_silence() -> None:
    caller = Caller()
    caller.push(PACKET, 0)
    caller.push(PACKET, 100)
    assert caller.stats == (960, 640, 0, 0)


async def test_a_repeated_packet_is_cut() -> None:
    caller = Caller()
    caller.push(PACKET, 0)
    caller.push(PACKET, 0)
    caller.push(PACKET, 20)
    assert caller.stats == (320, 0, 160, 0)


async def test_a_packet_that_overlaps_is_cut_where_it_does() -> None:
    caller = Caller()
    caller.push(PACKET, 0)
    caller.push(PACKET, 15)
    assert caller.stats == (280, 0, 40, 0)


async def test_a_packet_that_comes_after_its_gap_was_filled_is_too_late() -> None:
    caller = Caller()
    for timestamp_ms in (0, 40, 20, 60):
        caller.push(PACKET, timestamp_ms)
    assert caller.stats == (640, 160, 160, 0)


@pytest.mark.parametrize("size", [44, 63, 1, 7, 161])
async def test_timestamps_rounded_to_milliseconds_are_neither_gaps_nor_duplicates(size: int) -> None:
    caller = Caller()
    for packet in range(500):
        caller.push(size, packet * size * 1000 // 8000)
    assert caller.stats == (500 * size, 0, 0, 0)


@pytest.mark.parametrize("jump_ms", [3_030, 60_000, -3_020, -100_000])
async def test_a_jump_of_more_than_three_seconds_is_a_new_beginning(jump_ms: int) -> None:
    caller = Caller()
    caller.push(PACKET, 0)
    caller.push(PACKET, 20)
    caller.push(PACKET, 40 + jump_ms)
    caller.push(PACKET, 60 + jump_ms)
    assert caller.stats == (640, 0, 0, 0)


@pytest.mark.parametrize("jump_ms", [2_999, 3_000])
async def test_a_jump_of_up_to_three_seconds_is_loss(jump_ms: int) -> None:
    caller = Caller()
    caller.push(PACKET, 0)
    caller.push(PACKET, 20 + jump_ms)
    assert caller.stats == (320 + jump_ms * 8, jump_ms * 8, 0, 0)


async def test_an_empty_packet_changes_nothing_but_the_count() -> None:
    caller = Caller()
    caller.push(0, 0)
    caller.push(0, 0)
    assert caller.inbound.stats.packets == 2
    assert caller.stats == (0, 0, 0, 0)


async def test_audio_more_than_three_seconds_ahead_of_real_time_is_dropped_and_counted() -> None:
    caller = Caller()
    for packet in range(500):
        caller.push(PACKET, packet * 20, now=50.0)
    assert caller.stats == (24_000, 0, 0, 56_000)


async def test_a_single_packet_longer_than_three_seconds_is_dropped_and_counted() -> None:
    caller = Caller()
    caller.push(24_001, 0, now=50.0)
    assert caller.stats == (0, 0, 0, 24_001)
    caller.push(PACKET, 3_000, now=50.0)
    assert caller.stats == (160, 0, 0, 24_001)


async def test_what_was_dropped_ahead_is_not_filled_in_as_a_gap_later() -> None:
    caller = Caller()
    for packet in range(500):
        caller.push(PACKET, packet * 20, now=50.0)
    caller.push(PACKET, 10_000, now=60.0)
    assert caller.stats == (24_160, 0, 0, 56_000)


async def test_what_was_dropped_ahead_is_not_filled_in_whatever_the_size_of_packets() -> None:
    caller = Caller()
    for packet in range(1000):
        caller.push(161, packet * 161 // 8, now=50.0)
    caller.push(161, 1000 * 161 // 8, now=60.0)
    assert caller.inbound.stats.concealed_samples == 0


async def test_a_caller_in_time_may_talk_for_ever() -> None:
    caller = Caller()
    for packet in range(3000):
        caller.push(PACKET, packet * 20, now=50.0 + packet * 0.02)
    assert caller.stats == (480_000, 0, 0, 0)


async def test_gaps_that_a_peer_claims_do_not_run_ahead_of_real_time() -> None:
    # Each packet claims to come 2.9 s after the one before, and comes 20 ms after it: reliability.md, audio ahead.
    caller = Caller()
    for packet in range(100):
        caller.push(PACKET, packet * 2_900, now=50.0 + packet * 0.02)
        assert caller.inbound.stats.samples <= packet * 160 + 3 * 8000


@st.composite
def journeys(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Timestamps (ms) and lengths (samples) of packets that overlap, repeat and leave gaps, but never jump."""
    at, packets = 0, []
    for _ in range(draw(st.integers(1, 12))):
        size = draw(st.sampled_from([0, 8, 80, 160, 240, 800]))
        packets.append((max(0, at), size))
        at = max(0, at + size // 8 + draw(st.sampled_from([0, 0, 0, 0, 1, 5, 20, 100, 700, -1, -20, -50])))
    return packets


@given(packets=journeys())
@settings(max_examples=100)
async def test_the_media_clock_is_the_end_of_the_last_packet_and_all_audio_is_in_its_place(
    packets: list[tuple[int, int]],
) -> None:
    caller = Caller()
    packets[0] = (0, packets[0][1])
    expected: list[int] = []
    for number, (timestamp_ms, size) in enumerate(packets):
        payload = bytes((number,)) * size
        caller.receives(payload, timestamp_ms)
        await asyncio.sleep(3)
        expected += [0] * (timestamp_ms * 8 - len(expected))
        expected += PCMU_8K.decode(payload)[max(0, len(expected) - timestamp_ms * 8) :].tolist()
        assert caller.inbound.stats.samples == len(expected)
    assert caller.engine.heard == expected[: len(caller.engine.heard)]
    assert len(expected) - len(caller.engine.heard) < 256
    stats = caller.inbound.stats
    assert stats.samples == sum(size for _, size in packets) + stats.concealed_samples - stats.duplicate_samples


@given(
    packets=st.lists(
        st.tuples(st.integers(-4000, 4000), st.integers(0, 500), st.sampled_from([0.0, 0.02, 0.02, 0.1, 1.0])),
        max_size=25,
    )
)
@settings(max_examples=100)
async def test_every_sample_is_accounted_for_whatever_a_peer_sends(packets: list[tuple[int, int, float]]) -> None:
    caller = Caller()
    at, now = 0, 50.0
    for jump_ms, size, later in packets:
        at, now = at + jump_ms, now + later
        caller.push(size, at, now)
        at += size // 8
    stats = caller.inbound.stats
    received = sum(size for _, size, _ in packets)
    assert stats.samples == received + stats.concealed_samples - stats.duplicate_samples - stats.ahead_samples
    assert min(caller.stats) >= 0


@given(sizes=st.lists(st.integers(0, 1500), max_size=12), seed=st.integers(0, 1000))
@example(sizes=[641, 639, 640, 1281], seed=1)
@settings(max_examples=50)
async def test_an_odd_byte_never_slips_the_samples_behind_it(sizes: list[int], seed: int) -> None:
    caller = Caller(L16)
    random = Random(seed)
    data = [random.randbytes(size) for size in sizes]
    for payload in data:
        caller.receives(payload)
    await asyncio.sleep(5)
    whole = b"".join(payload[: len(payload) // 2 * 2] for payload in data)
    expected = L16.decode(whole).tolist()
    assert caller.inbound.stats.samples == len(expected)
    assert caller.engine.heard == expected[: len(expected) // 512 * 512]


# -- utterances ------------------------------------------------------------------------------------------------------


async def test_an_utterance_is_told_from_its_beginning_to_its_end() -> None:
    caller = Caller()
    caller.listener.on_paused = lambda: caller.inbound.transcript(Transcript("Hello."), complete=True)
    await caller.is_silent(1)
    await caller.speaks(1)
    await caller.is_silent(1)
    started, paused, ended = caller.listener.told
    assert isinstance(started, SpeechStarted)
    assert started.start == pytest.approx(8000, abs=256)
    assert started.at == started.start + 512
    assert paused == SpeechPaused(ended.end)
    assert ended.start == started.start
    assert ended.end == pytest.approx(16000, abs=256)


@pytest.mark.parametrize("audio", [PCMU_8K, AudioFormat("PCMA", 8000), L16], ids=["mu-law", "A-law", "L16"])
async def test_recognition_gets_the_utterance_with_300_ms_before_it_without_a_gap(audio: AudioFormat) -> None:
    caller = Caller(audio)
    await caller.is_silent(1)
    await caller.speaks(1.5)
    await caller.is_silent(0.5)
    start = caller.listener.told[0].start - round(0.3 * audio.rate_hz)
    heard = bytes(caller.stt.utterance)
    size = audio.sample_bytes
    assert heard == caller.said[start * size : start * size + len(heard)]
    assert len(heard) / size / audio.rate_hz == pytest.approx(0.3 + 1.5 + 0.5, abs=0.07)


async def test_recognition_of_speech_that_begins_with_the_call_gets_it_from_the_first_sample() -> None:
    caller = Caller()
    await caller.speaks(1)
    assert caller.said.startswith(bytes(caller.stt.utterance))
    assert len(caller.stt.utterance) > 7000


async def test_recognition_gets_all_of_a_very_long_utterance() -> None:
    caller = Caller(max_utterance=600)
    await caller.is_silent(2)
    await caller.speaks(60)
    start = caller.listener.told[0].start - 2400
    heard = bytes(caller.stt.utterance)
    assert heard == caller.said[start : start + len(heard)]
    assert len(heard) > 60 * 8000


async def test_silence_is_not_recognised() -> None:
    caller = Caller()
    await caller.is_silent(10)
    assert caller.stt.utterance == b""
    assert caller.listener.told == []


async def test_the_end_of_an_utterance_begins_the_next_one_in_recognition() -> None:
    caller = Caller()
    caller.listener.on_paused = lambda: caller.inbound.transcript(Transcript("Hello."), complete=True)
    await caller.is_silent(1)
    await caller.speaks(0.5)
    await caller.is_silent(1)
    assert (caller.stt.restarts, len(caller.stt.utterance)) == (1, 0)
    await caller.is_silent(1)
    await caller.speaks(0.5)
    start = caller.listener.told[-1].start - 2400
    assert caller.said[start:].startswith(bytes(caller.stt.utterance))


async def test_a_caller_who_goes_on_is_recognised_with_the_pause_between() -> None:
    caller = Caller()
    await caller.is_silent(1)
    await caller.speaks(0.5)
    await caller.is_silent(0.3)
    await caller.speaks(0.5)
    assert caller.listener.kinds == ["SpeechStarted", "SpeechPaused", "SpeechResumed"]
    start = caller.listener.told[0].start - 2400
    heard = bytes(caller.stt.utterance)
    assert heard == caller.said[start : start + len(heard)]
    assert len(heard) > 1.5 * 8000


async def test_text_for_a_pause_that_is_over_means_nothing() -> None:
    caller = Caller()
    await caller.speaks(0.5)
    caller.inbound.transcript(Transcript("Hello."), complete=True)
    await caller.is_silent(0.3)
    await caller.speaks(0.1)
    caller.inbound.transcript(Transcript("Hello."), complete=True)
    await caller.is_silent(3)
    assert "SpeechEnded" not in caller.listener.kinds


async def test_the_listener_says_how_much_makes_a_start() -> None:
    caller = Caller()
    caller.listener.windows = 10
    await caller.speaks(0.3)
    assert caller.listener.told == []
    await caller.speaks(0.1)
    assert caller.listener.kinds == ["SpeechStarted"]


async def test_a_gate_above_the_caller_keeps_them_out() -> None:
    caller = Caller()
    caller.listener.gate_db = -5
    await caller.speaks(2)
    assert caller.listener.told == []


async def test_whether_the_caller_speaks_is_known_until_the_end_is_confirmed() -> None:
    caller = Caller()
    assert not caller.inbound.caller_speaks
    await caller.speaks(0.5)
    assert caller.inbound.caller_speaks
    await caller.is_silent(0.3)
    assert caller.inbound.caller_speaks
    caller.inbound.transcript(Transcript("Hello."), complete=True)
    await caller.is_silent(0.3)
    assert not caller.inbound.caller_speaks


# -- barge-in --------------------------------------------------------------------------------------------------------


async def test_speech_over_a_silent_agent_is_no_barge_in() -> None:
    caller = Caller(speaking=False)
    await caller.speaks(3)
    assert caller.listener.kinds == ["SpeechStarted"]


async def test_long_speech_over_the_agent_interrupts_before_its_words_are_known() -> None:
    caller = Caller(speaking=True)
    await caller.speaks(0.9)
    assert caller.listener.kinds == ["SpeechStarted"]
    await caller.speaks(0.2)
    assert caller.listener.kinds == ["SpeechStarted", "interrupt"]


async def test_words_over_the_agent_interrupt_and_their_utterance_goes_on_to_its_end() -> None:
    caller = Caller(speaking=True)
    caller.listener.on_paused = lambda: caller.inbound.transcript(Transcript("Wait, please.", 0.9), complete=True)
    await caller.speaks(0.5)
    await caller.is_silent(1)
    assert caller.listener.kinds == ["SpeechStarted", "SpeechPaused", "interrupt", "SpeechEnded"]


async def test_a_backchannel_resumes_the_agent_and_is_no_utterance() -> None:
    caller = Caller(speaking=True)
    caller.listener.on_paused = lambda: caller.inbound.transcript(Transcript("Mm-hm.", 0.9), complete=True)
    await caller.speaks(0.4)
    await caller.is_silent(3)
    assert caller.listener.kinds == ["SpeechStarted", "SpeechPaused", "resume"]
    assert (caller.stt.restarts, len(caller.stt.utterance)) == (1, 0)
    assert not caller.inbound.caller_speaks


async def test_noise_without_any_text_resumes_the_agent_after_two_seconds_of_silence() -> None:
    caller = Caller(speaking=True)
    await caller.speaks(0.3)
    await caller.is_silent(1.9)
    assert caller.listener.kinds == ["SpeechStarted", "SpeechPaused"]
    await caller.is_silent(0.2)
    assert caller.listener.kinds == ["SpeechStarted", "SpeechPaused", "resume"]


async def test_too_few_words_are_neither_an_interruption_nor_an_utterance() -> None:
    caller = Caller(speaking=True, min_interruption_words=2)
    caller.listener.on_paused = lambda: caller.inbound.transcript(Transcript("Stop.", 0.9), complete=True)
    await caller.speaks(0.5)
    await caller.is_silent(3)
    assert caller.listener.kinds == ["SpeechStarted", "SpeechPaused", "resume"]


async def test_after_a_resume_the_next_speech_is_weighed_afresh() -> None:
    caller = Caller(speaking=True)
    texts = iter(["Mm-hm.", "Stop that."])
    caller.listener.on_paused = lambda: caller.inbound.transcript(Transcript(next(texts), 0.9), complete=True)
    await caller.speaks(0.4)
    await caller.is_silent(1)
    await caller.speaks(0.4)
    await caller.is_silent(1)
    assert caller.listener.kinds == [
        *("SpeechStarted", "SpeechPaused", "resume"),
        *("SpeechStarted", "SpeechPaused", "interrupt", "SpeechEnded"),
    ]


async def test_an_answer_held_back_for_speech_under_way_is_weighed_like_a_barge_in() -> None:
    caller = Caller(speaking=False)
    await caller.speaks(0.5)
    caller.inbound.hold()
    await caller.speaks(0.6)
    assert caller.listener.kinds == ["SpeechStarted", "interrupt"]


async def test_an_answer_held_back_in_a_pause_is_weighed_by_the_words_that_are_known() -> None:
    caller = Caller(speaking=False)
    caller.listener.on_paused = lambda: caller.inbound.transcript(Transcript("And then", 0.9), complete=False)
    await caller.speaks(0.5)
    await caller.is_silent(0.3)
    caller.inbound.hold()
    assert caller.listener.kinds == ["SpeechStarted", "SpeechPaused", "interrupt"]


async def test_words_of_an_earlier_pause_do_not_weigh_for_what_is_said_now() -> None:
    caller = Caller(speaking=False)
    caller.listener.on_paused = lambda: caller.inbound.transcript(Transcript("And then", 0.9), complete=False)
    await caller.speaks(0.5)
    await caller.is_silent(0.3)
    await caller.speaks(0.1)
    caller.inbound.hold()
    assert caller.listener.kinds == ["SpeechStarted", "SpeechPaused", "SpeechResumed"]


async def test_an_utterance_that_was_ended_for_its_length_leaves_no_verdict_behind() -> None:
    caller = Caller(speaking=True, min_interruption_words=2, max_utterance=1.5)
    caller.listener.on_paused = lambda: caller.inbound.transcript(Transcript("Stop it.", 0.9), complete=True)
    await caller.speaks(1.52)  # the limit of 1.5 s, and a window more
    assert caller.listener.kinds == ["SpeechStarted", "SpeechPaused", "interrupt", "SpeechEnded"]
    before = len(caller.listener.told)
    await caller.is_silent(5)
    assert caller.listener.kinds[before:] == []


# -- faults and the end ----------------------------------------------------------------------------------------------


async def test_a_listener_that_raises_is_told_and_harms_no_other_call() -> None:
    engine = EnergyVad()
    vad = VadService(engine, executor=InlineExecutor())
    broken, sound = Listener(), Listener()

    def breaks() -> tuple[int, float]:
        raise LookupError("broken")

    broken.sensitivity = breaks  # type: ignore[method-assign]
    calls = [
        InboundAudio(PCMU_8K, vad=vad, stt=Recogniser(), config=TurnConfig(), listener=listener)
        for listener in (broken, sound)
    ]
    for packet in range(20):
        for call in calls:
            call.push(ulaw_tone(0.02), packet * 20, asyncio.get_running_loop().time())
        await asyncio.sleep(0.02)
    assert {str(error) for error in broken.errors} == {"broken"}
    assert sound.errors == []
    assert sound.kinds == ["SpeechStarted"]


async def test_a_closed_call_hears_nothing_more_and_may_be_closed_twice() -> None:
    caller = Caller()
    caller.receives(ulaw_tone(0.5))
    caller.inbound.close()
    caller.inbound.close()
    await asyncio.sleep(1)
    assert caller.listener.told == []


async def test_packets_after_the_end_of_a_call_are_harmless() -> None:
    caller = Caller()
    caller.receives(ulaw_tone(0.5))
    await asyncio.sleep(1)
    told = list(caller.listener.told)
    caller.inbound.close()
    caller.receives(ulaw_tone(0.5))
    await asyncio.sleep(1)
    assert caller.listener.told == told
