"""The streaming leg with a real session, in virtual time, against the emulator. Numbers are of the acceptance list."""

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastagent.connectors import notices
from fastagent.connectors.audiocodes.config import AudiocodesConfig
from fastagent.connectors.audiocodes.departure import LegOptions
from fastagent.connectors.leg import HangupReason, LegError, MarkReached
from fastagent.connectors.line import Line
from tests.support.audio import ulaw_tone
from tests.support.audiocodes import PitchStt, StreamPhone
from tests.support.world import ANSWER, GREETING, Talker, World, call

GREETING_S = len(GREETING.split()) / 8 * 3


@asynccontextmanager
async def talking(
    *, states: Any = None, stt: Any = None, script: Any = ("hello there",), **phone: Any
) -> AsyncIterator[tuple[World, StreamPhone]]:
    """A session on a streaming leg."""
    one = StreamPhone(**{"barge_in": True, "formats": ("raw/mulaw",), **phone})
    async with call(states, stt=stt, script=script, phone=one) as world:
        try:
            yield world, one
        finally:
            await one.leg.aclose(HangupReason.COMPLETED)
    assert one.emulator.violations == []


def streams(phone: StreamPhone) -> list[tuple[str, int]]:
    """Each play stream with its seconds of audio in milliseconds; checks that none overlap (33)."""
    found, open_ = list[tuple[str, int]](), ""
    assert phone.form is not None
    per_ms = phone.form.audio.rate_hz * phone.form.audio.sample_bytes // 1000
    for one in phone.messages:
        if one["type"] == "playStream.start":
            assert not open_, "two at once"
            open_ = one["streamId"]
            found.append((open_, 0))
        elif one["type"] == "playStream.chunk":
            assert one["streamId"] == open_, "outside"
            found[-1] = (open_, found[-1][1] + len(b64decode(one["audioChunk"])) // per_ms)
        elif one["type"] == "playStream.stop":
            assert one["streamId"] == open_
            open_ = ""
    return found


async def test_31_a_silent_agent_gets_silence_sent_so_that_the_call_is_answered() -> None:
    async with talking(states=[Talker(greeting="")]) as (_, phone):
        await phone.run(0.9)
        assert not phone.emulator.answered
        await phone.run(0.2)
        assert phone.emulator.answered
        assert phone.when("playStream.start") == [1.0]
        assert streams(phone) == [("1", 200)]
        assert set(phone.audio) == {0xFF}


async def test_31_a_greeting_answers_the_call_at_once() -> None:
    async with talking() as (_, phone):
        await phone.run(3.5)
        assert phone.when("playStream.start") == [0.0]


async def test_32_33_34_each_utterance_is_one_stream_with_all_its_audio() -> None:
    async with talking() as (world, phone):
        await phone.run(GREETING_S + 1)
        phone.speak(ulaw_tone(0.6))
        await phone.run(6)
        assert [turn["cause"] for turn in world.turns] == ["opening", "speech"]
        assert streams(phone) == [("1", 2640), ("2", 3000)], "in whole frames"
        assert not phone.audio.startswith(b"RIFF")
        assert phone.emulator.received_s == pytest.approx(GREETING_S + 3, abs=0.02)


@pytest.mark.parametrize("form", ["raw/mulaw", "raw/lpcm16_8", "raw/lpcm16", "raw/lpcm16_24"])
async def test_27_34_a_tone_is_the_same_tone_inside_and_speech_has_its_length(form: str) -> None:
    async with talking(stt=PitchStt(), formats=(form,)) as (world, phone):
        await phone.run(GREETING_S + 1)
        phone.speak(ulaw_tone(1.0, hz=1000))
        await phone.run(5)
        assert [turn["user"] for turn in world.turns] == ["", "1000"]
        (recognition,) = phone.of("userStream.speech.recognition")
        assert recognition["alternatives"] == [{"text": "1000", "confidence": 0.5}]
        assert {one["mediaFormat"] for one in phone.of("playStream.start")} == {form}
        assert streams(phone)[1][1] == pytest.approx(3000, abs=20)


async def test_30_five_seconds_without_chunks_are_no_end_of_speech() -> None:
    async with talking() as (world, phone):
        await phone.run(GREETING_S + 1)
        phone.speak(ulaw_tone(0.5))
        await phone.run(0.5)  # and now nothing: not even silence
        await asyncio.sleep(5.0)
        assert [turn["cause"] for turn in world.turns] == ["opening"]
        await phone.run(4)
        assert [turn["user"] for turn in world.turns] == ["", "hello there"]


async def test_28_a_user_stream_that_is_stopped_ends_the_utterance() -> None:
    async with talking() as (world, phone):
        await phone.run(GREETING_S + 1)
        phone.speak(ulaw_tone(0.5))
        await phone.run(0.5)
        phone.send(phone.emulator.stop_stream())
        await asyncio.sleep(1.0)
        assert phone.of("userStream.stopped")
        assert [turn["user"] for turn in world.turns] == ["", "hello there"]


async def test_35_audio_is_never_far_ahead_of_the_clock() -> None:
    async with talking() as (_, phone):
        await phone.run(GREETING_S + 1)
        phone.press("1")
        await phone.run(5)
        assert 200 <= phone.emulator.max_buffered_ms <= 400 + 60


async def test_36_who_talks_over_the_agent_silences_it_by_the_whole_sequence() -> None:
    async with talking() as (world, phone):
        await phone.run(1.0)
        phone.speak(ulaw_tone(1.5))
        before = len(phone.messages)
        await phone.run(2.0)
        after = [
            one["type"] if one["type"] != "activities" else one["activities"][0]["name"]
            for one in phone.messages[before:]
        ]
        at = after.index("playStream.stop")
        assert after[at : at + 3] == ["playStream.stop", "userStream.speech.started", "abortPrompts"]
        assert (
            "playStream.chunk"
            not in after[at : after.index("playStream.start") if "playStream.start" in after else None]
        )
        assert phone.when("playStream.stop")[0] - 1.0 <= 0.24
        assert phone.emulator.interruptions == 1
        assert world.turns[0]["interrupted"]
        await phone.run(6)
        assert [turn["heard"] for turn in world.turns][1:] == [ANSWER]
        kinds = [kind for kind in phone.emulator.speech if kind != "hypothesis"]
        assert kinds == ["started", "stopped", "recognition", "committed"]
        assert len({stream for stream, _ in streams(phone)}) == 2


async def test_36_with_barge_in_off_the_caller_is_not_heard_while_the_agent_speaks() -> None:
    config = AudiocodesConfig(barge_in=False)
    async with talking(barge_in=False, config=config) as (world, phone):
        phone.speak(ulaw_tone(1.0))
        await phone.run(GREETING_S + 2)
        assert phone.emulator.interruptions == 0
        assert not world.turns[0]["interrupted"]
        assert phone.types.count("userStream.stopped") >= 1
        phone.speak(ulaw_tone(0.6))
        await phone.run(6)
        assert world.turns[-1]["user"] == "hello there"


async def test_36_a_key_silences_the_agent_too() -> None:
    async with talking() as (world, phone):
        await phone.run(1.0)
        phone.press("1")
        await phone.run(0.1)
        assert phone.emulator.interruptions == 1
        assert phone.emulator.speech == ["started", "stopped"]
        assert world.turns[0]["interrupted"]


async def test_37_partials_are_hypotheses_and_finals_recognitions() -> None:
    async with talking() as (_, phone):
        await phone.run(GREETING_S + 1)
        phone.speak(ulaw_tone(0.6))
        await phone.run(3)
        assert phone.of("userStream.speech.hypothesis")[0]["alternatives"] == [{"text": "hello there"}]
        assert phone.of("userStream.speech.recognition")[0]["alternatives"] == [
            {"text": "hello there", "confidence": 1.0}
        ]


async def test_typed_words_are_not_reported_as_heard() -> None:
    async with talking() as (world, phone):
        await phone.run(GREETING_S + 1)
        phone.send(phone.emulator.message("I need help"))
        await phone.run(4)
        assert world.turns[1]["user"] == "I need help"
        assert phone.of("userStream.speech.recognition") == []


class Marks:
    """A leg without a session, and when its marks came."""

    def __init__(self, **phone: Any) -> None:
        self.phone = StreamPhone(formats=("raw/mulaw",), **phone)
        self.reached: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for event in self.phone.leg.events():
            if isinstance(event, MarkReached):
                self.reached[event.name] = round(self._loop.time() - self._began, 3)

    def say(self, ms: int, *, flush: bool = True) -> None:
        self.phone.leg.send_audio(bytes(8 * ms))
        self.phone.leg.send_mark(f"{ms}")
        if flush:
            self.phone.leg.flush()

    async def aclose(self) -> None:
        await self.phone.leg.aclose(HangupReason.COMPLETED)
        await self._task


async def test_38_without_playfinished_the_clock_ends_an_utterance() -> None:
    one = Marks()
    one.say(1000)
    await asyncio.sleep(2)
    assert one.reached == {"1000": 1.0}
    await one.aclose()


async def test_38_playfinished_ends_it_and_the_clock_at_most_300_ms_late() -> None:
    one = Marks()
    leg = one.phone.leg
    one.say(100)
    await asyncio.sleep(0.05)
    leg.play_finished("1")
    assert one.reached == {}
    await asyncio.sleep(0.95)
    one.say(200)  # until 1.2
    await asyncio.sleep(0.3)  # it is played late
    leg.play_finished("2")
    await asyncio.sleep(0.7)
    one.say(300)  # until 2.3, and nobody says that it was
    await asyncio.sleep(1.0)
    assert one.reached == {"100": 0.05, "200": 1.3, "300": 2.55}
    await one.aclose()


async def test_38_playfinished_of_another_stream_ends_nothing() -> None:
    one = Marks()
    leg = one.phone.leg
    one.say(100)
    await asyncio.sleep(0.5)
    one.say(1000)
    await asyncio.sleep(0.1)
    leg.play_finished("1")
    leg.play_finished("nonsense")
    await asyncio.sleep(0.1)
    assert list(one.reached) == ["100"]
    leg.play_finished(None)  # the oldest of which it was not said: the second
    await asyncio.sleep(0)
    assert list(one.reached) == ["100", "1000"]
    one.say(2000, flush=False)
    leg.play_finished("3")  # it is still open
    leg.play_finished(None)
    await asyncio.sleep(0)
    assert "2000" not in one.reached
    await one.aclose()


async def test_39_the_conversation_is_configured_at_its_start() -> None:
    config = AudiocodesConfig(barge_in=False, session_params={"userNoInputTimeoutMS": 5000, "sendDTMF": False})
    async with talking(config=config) as (_, phone):
        await phone.run(0.1)
        (activity,) = phone.activities("config")
        assert activity["sessionParams"] == {
            "bargeIn": False,
            "sendDTMF": False,
            "sendEventsToBot": ["playFinished"],
            "userNoInputGiveUpTimeoutMS": 0,
            "userNoInputTimeoutMS": 5000,
        }
        assert phone.types[:2] == ["session.accepted", "config"], "24: and nothing before"


async def test_40_nothing_is_sent_after_the_end() -> None:
    async with talking() as (world, phone):
        await phone.run(1.0)
        phone.caller_hangs_up()
        sent = len(phone.messages)
        assert await world.ended() is HangupReason.CALLER_HUNG_UP
        await asyncio.sleep(2)
        assert len(phone.messages) == sent
    assert phone.line.farewell is not None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("client-disconnected", HangupReason.CALLER_HUNG_UP),
        ("transferred", HangupReason.TRANSFERRED),
        ("error", HangupReason.PROVIDER_ERROR),
        ("bot-disconnected", HangupReason.COMPLETED),
        ("machine-detected", HangupReason.CALLER_HUNG_UP),
        ("", HangupReason.CALLER_HUNG_UP),
    ],
)
async def test_40_the_reason_of_the_end_is_the_sessions(code: str, reason: HangupReason) -> None:
    async with talking() as (world, phone):
        await phone.run(0.5)
        phone.send(phone.emulator.end(code))
        phone.send(phone.emulator.end("error"))
        assert await world.ended() is reason


async def test_41_a_hang_up_is_asked_for_and_the_socket_stays_until_it_is_confirmed() -> None:
    async with talking() as (world, phone):
        await phone.run(GREETING_S + 1)
        phone.send = lambda text: None  # type: ignore[method-assign]  # no word comes back
        world.session.close(HangupReason.TERMINATED)
        async with asyncio.timeout(20):
            while not phone.activities("hangup"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        (hangup,) = phone.activities("hangup")
        assert hangup["activityParams"] == {"hangupReason": "terminated"}
        assert phone.line.farewell is None
        await asyncio.sleep(4.8)
        assert not world.is_over
        assert await world.ended() is HangupReason.TERMINATED


async def test_42_a_cut_call_goes_on_where_it_was_with_new_streams() -> None:
    async with talking() as (world, phone):
        await phone.run(1.0)
        await phone.cut()
        before = [stream for stream, _ in streams(phone)[:-1]]
        await asyncio.sleep(3.0)
        assert not world.is_over
        await phone.come_back()
        await phone.run(GREETING_S + 1)
        assert phone.messages[len(phone.messages) - 1]
        assert phone.types.count("session.accepted") == 2
        starts = [one["streamId"] for one in phone.of("playStream.start")]
        assert starts == ["1", "2"]
        assert before == []
        assert world.turns[0]["heard"] == GREETING
        phone.speak(ulaw_tone(0.6))
        await phone.run(5)
        assert [turn["cause"] for turn in world.turns] == ["opening", "speech"]


async def test_46_a_connection_that_does_not_come_back_ends_the_session() -> None:
    async with talking(options=LegOptions(hold_s=10)) as (world, phone):
        await phone.run(GREETING_S + 1)
        await phone.cut()
        await asyncio.sleep(9.9)
        assert not world.is_over
        assert await world.ended() is HangupReason.CONNECTION_LOST
        assert phone.activities("hangup") == []


async def test_a_connection_lost_while_we_hang_up_is_the_hang_up() -> None:
    async with talking() as (world, phone):
        await phone.run(GREETING_S + 1)
        phone.send = lambda text: None  # type: ignore[method-assign]
        world.session.close(HangupReason.TERMINATED, "")
        await asyncio.sleep(0.1)
        await phone.cut()
        assert await world.ended() is HangupReason.TERMINATED


async def test_45_the_old_socket_is_closed_without_a_word_when_a_new_one_resumes() -> None:
    async with talking() as (world, phone):
        await phone.run(1.0)
        old: Line = phone.line
        sent = len(phone.messages)
        await phone.come_back()
        assert old.farewell is not None
        await phone.run(GREETING_S + 1)
        assert phone.messages[sent]["type"] == "session.accepted"
        assert "hangup" not in phone.types
        assert not world.is_over


async def test_47_a_transfer_that_fails_comes_back_and_one_that_does_not_is_the_end() -> None:
    for fails, options in (("busy", LegOptions()), (None, LegOptions()), (None, LegOptions(notified=False))):
        phone = StreamPhone(formats=("raw/mulaw",), transfer_fails=fails, options=options)
        if fails:
            with pytest.raises(LegError, match="busy"):
                await phone.leg.transfer("+15550100199")
            assert not phone.leg.over
        else:
            await phone.leg.transfer("+15550100199")
            assert phone.leg.over
        (transfer,) = phone.activities("transfer")
        assert transfer["activityParams"]["transferTarget"] == "tel:+15550100199"
        assert ("transferNotifications" in transfer["activityParams"]) is options.notified
        await phone.leg.aclose(HangupReason.COMPLETED)
        assert phone.emulator.violations == []


async def test_47_of_a_transfer_nobody_hears_anything() -> None:
    for notified in (True, False):
        phone = StreamPhone(options=LegOptions(notified=notified))
        phone.send = lambda text: None  # type: ignore[method-assign]
        if notified:
            with pytest.raises(LegError, match="no word"):
                await phone.leg.transfer("sip:a@b")
        else:
            await phone.leg.transfer("sip:a@b")
        assert phone.leg.over is not notified
        await phone.leg.aclose(HangupReason.COMPLETED)


async def test_a_lost_call_cannot_be_transferred() -> None:
    phone = StreamPhone()
    await phone.cut()
    with pytest.raises(LegError, match="lost"):
        await phone.leg.transfer("+1")
    await phone.leg.aclose(HangupReason.COMPLETED)


async def test_keys_go_out_and_what_is_no_key_does_not() -> None:
    phone = StreamPhone()
    await phone.leg.send_dtmf("12#" * 8)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [one["activityParams"]["dtmfDigits"] for one in phone.activities("sendDtmf")] == ["12#" * 6 + "12", "#12#"]
    with pytest.raises(LegError):
        await phone.leg.send_dtmf("A")
    await phone.leg.aclose(HangupReason.COMPLETED)
    assert phone.emulator.violations == []


async def test_21_a_session_without_audio_speaks_in_words_only() -> None:
    async with talking(voice=False, formats=()) as (world, phone):
        await phone.run(0.5)
        assert phone.emulator.texts == [GREETING]
        assert phone.activities("config")[0]["sessionParams"]["sendEventsToBot"] == ["noUserInput"]
        phone.send(phone.emulator.message("I need help"))
        await phone.run(0.5)
        assert phone.emulator.texts == [GREETING, ANSWER]
        assert [turn["heard"] for turn in world.turns] == [GREETING, ANSWER]
        await phone.run(60)
        assert len(world.turns) == 2, "VoiceAI Connect says when the caller is silent"
        phone.send(phone.emulator._event("noUserInput", value=1))
        await phone.run(0.5)
        assert [turn["cause"] for turn in world.turns] == ["opening", "text", "no_input"]
        phone.press("1")
        await phone.run(0.5)
        assert world.turns[-1]["cause"] == "dtmf"
        assert not [one for one in phone.types if one.startswith("playStream")]


async def test_21_a_session_without_audio_may_listen_all_the_same() -> None:
    async with talking(voice=False) as (world, phone):
        await phone.run(0.5)
        phone.speak(ulaw_tone(0.6))
        await phone.run(2)
        assert [turn["user"] for turn in world.turns] == ["", "hello there"]
        assert phone.emulator.recognised == ["hello there"]
        assert phone.emulator.texts[-1] == ANSWER


async def test_an_apology_is_said_in_words_too() -> None:
    def fail(text: str, context: Any) -> Any:
        raise ValueError("broken")

    async with talking(states=[Talker(answer=fail)], voice=False, formats=()) as (_, phone):
        await phone.run(0.5)
        for _ in range(3):
            phone.send(phone.emulator.message("hello"))
            await phone.run(0.5)
        assert len(phone.emulator.texts) == 4
        assert phone.emulator.hung_up == "agent_failed"


async def test_a_voice_call_listens_itself_whatever_voiceai_connect_says_of_silence() -> None:
    async with talking() as (world, phone):
        await phone.run(GREETING_S + 1)
        phone.send(phone.emulator._event("noUserInput", value=1))
        await phone.run(0.2)
        assert len(world.turns) == 1


async def test_what_the_caller_says_before_anybody_listens_is_kept() -> None:
    phone = StreamPhone(formats=("raw/mulaw",))

    class Sink:
        payload = b""

        def push(self, payload: bytes, timestamp_ms: int | None, now: float) -> bool:
            self.payload += payload
            return True

        def quiet(self, seconds: float, now: float) -> None:
            pass

    sink = Sink()
    phone.leg.audio_stopped()
    for _ in range(150):
        phone.leg.audio_received(bytes(160))
    phone.leg.attach(sink)
    assert len(sink.payload) == 16000, "two seconds"
    await phone.leg.aclose(HangupReason.COMPLETED)


async def test_recordings_and_urls_are_asked_for_by_activities() -> None:
    phone = StreamPhone()
    write = phone.leg.protocol.write
    phone.leg.tell(write.recording("start"), write.metadata({"a": 1}))
    phone.leg.tell(write.play_url("https://x/y.wav", "wav/lpcm16"))
    await asyncio.sleep(0.01)
    assert [name for name in phone.types if name[0] != "u"][-3:] == ["startCallRecording", "sendMetaData", "playUrl"]
    await phone.leg.aclose(HangupReason.COMPLETED)
    assert phone.emulator.violations == []


async def test_a_half_character_of_a_model_harms_nothing() -> None:
    phone = StreamPhone(voice=False)
    phone.leg.notify(notices.Transcribed("agent", "half \ud83d", False))
    await asyncio.sleep(0.01)
    assert phone.emulator.texts == ["half \ud83d"]
    await phone.leg.aclose(HangupReason.COMPLETED)
