"""The leg of an API socket in virtual time: silence, marks, reports, and what goes out around an end or a return."""

import asyncio
import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastagent.connectors import notices
from fastagent.connectors.leg import ConnectionBack, ConnectionLost, HangupReason, LegEnded
from fastagent.connectors.line import Line
from fastagent.connectors.websocket.protocol import SocketProtocol, StartRequested
from fastagent.media.barge_in import Verdict
from fastagent.media.endpointing import SpeechEnded, SpeechPaused, SpeechResumed, SpeechStarted
from fastagent.media.frame import AudioFormat
from fastagent.media.inbound import InboundAudio
from fastagent.media.level import FLOOR_DB
from fastagent.media.speech.contracts import Transcript
from fastagent.media.speech.scripted import ScriptedStt
from fastagent.media.turn_config import TurnConfig
from fastagent.media.vad.engine import EnergyVad
from fastagent.media.vad.service import VadService
from tests.connectors.conformance import Events, Sink
from tests.connectors.harnesses import Socket, SocketHarness
from tests.support.audio import tone
from tests.support.loop import InlineExecutor

WIDE = AudioFormat("L16", 16000)


def now() -> float:
    return asyncio.get_running_loop().time()


# -- silence (54) ------------------------------------------------------------------------------------------------------


class Ears:
    """A listener that notes what was said, and when it was known, in seconds."""

    def __init__(self) -> None:
        self.said: list[tuple[float, float, float]] = []
        self.inbound = InboundAudio(
            WIDE,
            vad=VadService(EnergyVad(), executor=InlineExecutor()),
            stt=ScriptedStt().open(WIDE),
            config=TurnConfig(),
            listener=self,
            max_ahead_s=10.0,
        )

    def sensitivity(self) -> tuple[int, float]:
        return 2, FLOOR_DB - 1

    def speech_started(self, event: SpeechStarted) -> bool:
        return False

    def speech_paused(self, event: SpeechPaused) -> None:
        self.inbound.transcript(Transcript("Hello there.", 1.0), complete=True)

    def speech_resumed(self, event: SpeechResumed) -> None:
        pass

    def speech_ended(self, event: SpeechEnded) -> None:
        self.said.append((event.start / 16000, event.end / 16000, now()))

    def barge_in(self, verdict: Verdict) -> None:
        raise AssertionError(verdict)

    def failed(self, error: Exception) -> None:
        raise error


async def speak(one: SocketHarness, seconds: float, late: Callable[[int], float], level: float = 0.3) -> None:
    """Send speech in frames of 20 ms; frame n is `late(n)` seconds late, and holds up those behind it."""
    samples, began = tone(seconds, rate_hz=16000, level=level), now()
    for at in range(round(seconds * 50)):
        await asyncio.sleep(max(0.0, began + 0.02 * at + late(at) - now()))
        one.caller_sends(samples[at * 320 : at * 320 + 320].tobytes())


@pytest.mark.parametrize("late_s", [0.0, 0.1, 0.3, 0.47])
async def test_a_stream_that_is_late_by_less_than_half_a_second_gets_no_silence(late_s: float) -> None:
    one, sink = SocketHarness(), Sink()
    one.leg.attach(sink)
    await speak(one, 2.0, lambda at: late_s if at % 25 < 10 else 0.0)
    assert sink.quiet_s == 0
    assert len(sink.payload) == 2 * 32000
    await one.leg.aclose(HangupReason.COMPLETED)


@pytest.mark.parametrize("late_s", [0.0, 0.3])
async def test_late_speech_is_one_utterance_of_its_length(late_s: float) -> None:
    one, ears = SocketHarness(), Ears()
    one.leg.attach(ears.inbound)
    await speak(one, 2.0, lambda at: late_s if 30 <= at < 50 else 0.0)
    await asyncio.sleep(2.0)
    ((start, end, _),) = ears.said
    assert [start, end] == pytest.approx([0.0, 2.0], abs=0.1)
    await one.leg.aclose(HangupReason.COMPLETED)


async def test_a_wav_and_then_nothing_is_an_utterance() -> None:
    one, ears = SocketHarness(), Ears()
    one.leg.attach(ears.inbound)
    began = now()
    one.caller_sends(tone(3.0, rate_hz=16000).tobytes())
    await asyncio.sleep(2.0)
    ((start, end, at),) = ears.said
    assert [start, end] == pytest.approx([0.0, 3.0], abs=0.1)
    assert at - began <= 1.0
    await one.leg.aclose(HangupReason.COMPLETED)


async def test_silence_in_place_of_chunks_takes_nothing_from_what_comes_after_it() -> None:
    """Minutes of speech with pauses without audio: all of it is taken, and stands where it was said."""
    one, ears = SocketHarness(), Ears()
    one.leg.attach(ears.inbound)
    began = now()
    for turn in range(20):
        await asyncio.sleep(max(0.0, began + 4.0 * turn - now()))
        await speak(one, 1.5, lambda at: 0.0)
    await asyncio.sleep(2.0)
    assert len(ears.said) == 20
    assert ears.inbound.stats.ahead_samples == 0
    for turn, (start, end, at) in enumerate(ears.said):
        assert end - start == pytest.approx(1.5, abs=0.15)
        assert at - (began + 4.0 * turn + 1.5) <= 1.0, "and is known soon after its end"
    await one.leg.aclose(HangupReason.COMPLETED)


async def test_a_burst_after_a_stall_is_taken_whole() -> None:
    one, ears = SocketHarness(), Ears()
    one.leg.attach(ears.inbound)
    await speak(one, 3.0, lambda at: 1.0 if 50 <= at < 100 else 0.0)
    await asyncio.sleep(2.0)
    assert ears.inbound.stats.ahead_samples == 0
    assert sum(end - start for start, end, _ in ears.said) == pytest.approx(3.0, abs=0.3)
    await one.leg.aclose(HangupReason.COMPLETED)


async def test_silence_lasts_three_seconds_at_most_and_is_counted_once() -> None:
    one, sink = SocketHarness(), Sink()
    one.leg.attach(sink)
    one.caller_sends(bytes(640))
    await asyncio.sleep(0.49)
    assert sink.quiet_s == 0
    await asyncio.sleep(0.02)
    assert sink.quiet_s == pytest.approx(0.5, abs=0.02)
    await asyncio.sleep(0.5)
    assert sink.quiet_s == pytest.approx(1.0, abs=0.12)
    await asyncio.sleep(60)
    assert sink.quiet_s == pytest.approx(3.0, abs=0.12)
    await one.leg.aclose(HangupReason.COMPLETED)


async def test_a_standstill_of_ours_is_no_silence_of_the_callers() -> None:
    """The loop stood still for a second: the timer is due before the audio that waits in the socket was read."""
    one, sink = SocketHarness(), Sink()
    one.leg.attach(sink)
    one.caller_sends(bytes(640))
    await asyncio.sleep(0.1)
    loop: Any = asyncio.get_running_loop()
    loop.now += 1.0
    await asyncio.sleep(0.001)
    for _ in range(50):
        one.caller_sends(bytes(640))
    await asyncio.sleep(0.3)
    assert sink.quiet_s == 0
    await one.leg.aclose(HangupReason.COMPLETED)


async def test_after_the_end_no_timer_is_left() -> None:
    one, sink = SocketHarness(), Sink()
    one.leg.attach(sink)
    one.caller_sends(bytes(640))
    one.leg.send_audio(bytes(640))
    one.leg.send_mark("1:320")
    await one.leg.hang_up(HangupReason.COMPLETED)
    await one.leg.aclose(HangupReason.COMPLETED)
    loop: Any = asyncio.get_running_loop()
    left = [timer for timer in loop._scheduled if not timer.cancelled() and "SocketLeg" in repr(timer)]
    assert not left
    await asyncio.sleep(5)
    assert sink.quiet_s == 0


# -- what was heard ----------------------------------------------------------------------------------------------------


async def spoken(one: SocketHarness, utterances: int = 1) -> Events:
    """So many utterances of 400 ms with a mark each 200 ms, named by utterance and place."""
    events = Events(one.leg)
    for utterance in range(1, utterances + 1):
        for place in (200, 400):
            one.leg.send_audio(bytes(6400))
            one.leg.send_mark(f"{utterance}:{place}")
        one.leg.flush()
    await asyncio.sleep(0)
    return events


def played(one: SocketHarness, utterance: str, ms: float) -> None:
    one._send("playback_status", utterance_id=utterance, played_ms=ms)


@pytest.mark.parametrize(
    ("reports", "marks"),
    [
        ([("utt_1", 0)], []),
        ([("utt_1", 199.5)], ["1:200"]),
        ([("utt_1", 200), ("utt_1", 200), ("utt_1", 100)], ["1:200"]),
        ([("utt_1", 1e7)], ["1:200", "1:400"]),
        ([("utt_2", 0)], ["1:200", "1:400"]),
        ([("utt_2", 250)], ["1:200", "1:400", "2:200"]),
        ([("utt_2", 250), ("utt_1", 400)], ["1:200", "1:400", "2:200"]),
        ([("utt_9", 400)], []),
        ([("", 400), ("utt_1", 400)], ["1:200", "1:400"]),
    ],
)
async def test_reports_reach_marks_once_and_in_order(reports: list[tuple[str, float]], marks: list[str]) -> None:
    one = SocketHarness()
    events = await spoken(one, utterances=2)
    for utterance, ms in reports:
        played(one, utterance, ms)
    await asyncio.sleep(5)
    assert events.marks == marks, "and the clock says nothing more"
    await one.leg.aclose(HangupReason.COMPLETED)


async def test_a_client_that_has_reported_once_is_not_second_guessed_by_the_clock() -> None:
    one = SocketHarness()
    events = await spoken(one)
    played(one, "utt_1", 0)
    one.leg.send_audio(bytes(6400))
    one.leg.send_mark("2:200")
    await asyncio.sleep(5)
    assert events.marks == []
    played(one, "utt_2", 200)
    await asyncio.sleep(0)
    assert events.marks == ["1:200", "1:400", "2:200"]
    await one.leg.aclose(HangupReason.COMPLETED)


async def test_a_report_of_what_was_cleared_proves_nothing() -> None:
    one = SocketHarness()
    events = await spoken(one)
    one.leg.clear()
    played(one, "utt_1", 400)
    one.leg.send_audio(bytes(6400))
    one.leg.send_mark("2:200")
    played(one, "utt_1", 400)
    await asyncio.sleep(0)
    assert events.marks == []
    played(one, "utt_2", 200)
    await asyncio.sleep(0)
    assert events.marks == ["2:200"]
    await one.leg.aclose(HangupReason.COMPLETED)


# -- connections -------------------------------------------------------------------------------------------------------


def another(one: SocketHarness) -> tuple[Line, SocketProtocol, StartRequested, list[dict[str, Any]]]:
    """Another socket of the same client, with its start."""
    received: list[dict[str, Any]] = []
    protocol = SocketProtocol()
    (request,) = protocol.receive('{"type": "start_session", "payload": {"resume_secret": "x"}}')
    assert isinstance(request, StartRequested)
    protocol.started("s", request)
    socket: Any = Socket(lambda text: received.append(json.loads(text)))
    return Line(socket, None), protocol, request, received


async def test_a_return_is_announced_first_and_what_was_on_its_way_is_not_heard() -> None:
    one = SocketHarness()
    one.leg._hold_s = 30.0
    one.leg.notify(notices.SessionStarted("s", "agent", "greeting"))
    one.leg.notify(notices.StateChanged("greeting", "talk", ""))
    events = await spoken(one)
    await one.leg.lose(one._line)
    one.leg.send_audio(bytes(6400))
    one.leg.send_mark("1:600")
    await asyncio.sleep(10)
    line, protocol, request, received = another(one)
    await one.leg.take_up(line, protocol, request)
    one.leg.send_audio(bytes(6400))
    await asyncio.sleep(60)
    assert [type(event) for event in events.seen] == [ConnectionLost, ConnectionBack], "held, and no mark of before"
    assert [message["type"] for message in received] == ["session_started", "audio_response"]
    assert (received[0]["payload"]["initial_state"], received[0]["payload"]["resumed"]) == ("talk", True)
    assert received[1]["payload"]["utterance_id"] == "utt_2"
    await one.leg.aclose(HangupReason.COMPLETED)


async def test_a_session_that_nobody_comes_back_to_ends_once_its_time_is_over() -> None:
    one = SocketHarness()
    one.leg._hold_s = 30.0
    events = Events(one.leg)
    began = now()
    await one.leg.lose(one._line)
    assert await events.end() is HangupReason.CONNECTION_LOST
    assert now() - began == pytest.approx(30.0)
    await one.leg.hang_up(HangupReason.CONNECTION_LOST)
    await one.leg.aclose(HangupReason.CONNECTION_LOST)


async def test_the_older_connection_ends_nothing_and_gets_nothing() -> None:
    one = SocketHarness()
    events = Events(one.leg)
    one.stall()
    one.leg.send_audio(bytes(6400))
    await asyncio.sleep(0.01)
    line, protocol, request, received = another(one)
    await one.leg.take_up(line, protocol, request)
    assert one._line.farewell == (1008, b"resumed elsewhere")
    assert not one.leg.on(one._line)
    one.flow()
    await one.leg.lose(one._line)
    one.leg.send_audio(bytes(6400))
    await asyncio.sleep(0.01)
    assert not one.messages
    assert received[-1]["type"] == "audio_response"
    assert LegEnded not in map(type, events.seen)
    await one.leg.aclose(HangupReason.COMPLETED)


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_session_ended_is_the_last_word_and_errors_may_follow() -> None:
    one = SocketHarness()
    one.leg.send_audio(bytes(6400))
    await asyncio.sleep(7.4)
    await one.leg.hang_up(HangupReason.MAX_DURATION)
    one.leg.notify(notices.Transcribed("agent", "late", True))
    one.leg.notify(notices.CallerSpeech(False))
    one.leg.clear()
    one.leg.flush()
    one.caller_sends(bytes(640))
    await asyncio.sleep(1)
    assert [message["type"] for message in one.messages] == ["audio_response", "session_ended", "error"]
    assert one.messages[1]["payload"] == {"reason": "max_duration", "duration_seconds": 7, "detail": None}
    assert one.messages[2]["payload"]["code"] == "session_not_found"
    await one.leg.aclose(HangupReason.MAX_DURATION)
    assert one._line.farewell == (1000, b"")


async def test_audio_does_not_slip_in_behind_the_last_word_on_a_slow_wire() -> None:
    one = SocketHarness()
    one.stall()
    one.leg.send_audio(bytes(640))
    ending = asyncio.create_task(one.leg.hang_up(HangupReason.COMPLETED))
    await asyncio.sleep(0.1)
    one.leg.send_audio(bytes(640))
    one.flow()
    await ending
    assert [message["type"] for message in one.messages] == ["audio_response", "session_ended"]
    await one.leg.aclose(HangupReason.COMPLETED)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (HangupReason.COMPLETED, 1000),
        (HangupReason.CALLER_HUNG_UP, 1000),
        (HangupReason.TERMINATED, 1000),
        (HangupReason.SHUTDOWN, 1001),
        (HangupReason.SLOW_PEER, 1008),
        (HangupReason.INTERNAL_ERROR, 1011),
    ],
)
async def test_the_close_has_the_code_of_its_reason(reason: HangupReason, code: int) -> None:
    one = SocketHarness()
    await one.leg.hang_up(reason)
    await one.leg.aclose(HangupReason.COMPLETED)
    await one.leg.aclose(HangupReason.COMPLETED)
    assert one._line.farewell == (code, b"")


async def test_the_final_flag_comes_also_where_words_followed_the_last_audio() -> None:
    one = SocketHarness()
    one.leg.send_audio(np.full(3200, 5, "<i2").tobytes())
    one.leg.notify(notices.CallerSpeech(True))
    one.leg.flush()
    await asyncio.sleep(0.01)
    assert [message["type"] for message in one.messages] == ["audio_response", "speech_started", "audio_response"]
    first, _, last = (message["payload"] for message in one.messages)
    assert (first["final"], last["final"]) == (False, True)
    assert (first["seq"], last["seq"]) == (1, 2)
    assert last["data"] != "", "an empty WAV, and not nothing"
    assert len(last["data"]) == len(b64encode(bytes(44)))
    await one.leg.aclose(HangupReason.COMPLETED)


@pytest.mark.parametrize("chunk_s", [0.6, 1.0, 2.0])
async def test_chunks_that_come_in_a_rhythm_are_one_utterance(chunk_s: float) -> None:
    """Who records a second at a time sends a second at a time: the wait for the next chunk is no silence."""
    one, ears = SocketHarness(), Ears()
    one.leg.attach(ears.inbound)
    silence, speech = bytes(round(chunk_s * 32000)), tone(chunk_s, rate_hz=16000).tobytes()
    for chunk in (silence, silence, *[speech] * 4, silence, silence):
        one.caller_sends(chunk)
        await asyncio.sleep(chunk_s)
    await asyncio.sleep(3.0)
    ((start, end, _),) = ears.said
    assert end - start == pytest.approx(4 * chunk_s, abs=0.2)
    await one.leg.aclose(HangupReason.COMPLETED)
