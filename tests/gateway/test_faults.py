"""Faults: what the caller hears, what is counted, and that the call lives on. Each has a twin in `test_session.py`."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from fastagent.afsm import StateResult
from fastagent.connectors.leg import HangupReason
from fastagent.gateway import phrases
from fastagent.media.errors import SpeechError
from fastagent.media.frame import AudioFrame
from fastagent.media.speech.scripted import ScriptedTts
from tests.support.world import ANSWER, GREETING, SlowStt, Talker, call


class BrokenTts(ScriptedTts):
    """Scripted synthesis that fails on demand."""

    def __init__(self, bad: str) -> None:
        self.bad = bad
        self.failed = 0

    async def stream(self, text: str) -> AsyncIterator[AudioFrame]:
        if self.bad in text:
            self.failed += 1
            raise SpeechError("no voice today")
        async for frame in super().stream(text):
            yield frame


def raising(text: str, context: object) -> StateResult:
    raise RuntimeError("a bug in somebody's state")


async def test_f23_a_state_that_raises_is_heard_as_an_apology_and_the_call_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcomes = iter([raising, None])

    def answer(text: str, context: object) -> StateResult:
        outcome = next(outcomes)
        return outcome(text, context) if outcome else StateResult("Better now.")

    async with call([Talker(answer=answer)]) as world:
        await world.greeted()
        await world.say(0.6, then=5.0)
        assert world.turns[-1]["heard"] == phrases.APOLOGY
        assert world.metric("filler_total", reason="failure") == 1
        await world.say(0.6, then=3.0)
        assert world.turns[-1]["heard"] == "Better now."
        assert not world.is_over
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["turn failed"]


async def test_three_failed_turns_in_a_row_end_the_call() -> None:
    async with call([Talker(answer=raising)]) as world:
        await world.greeted()
        for _ in range(3):
            await world.say(0.6, then=8.0)
        assert world.leg.hung_up is HangupReason.AGENT_FAILED
        assert world.turns[-1]["heard"] == phrases.GIVE_UP


async def test_failures_that_are_not_in_a_row_do_not_end_the_call() -> None:
    outcomes = iter([raising, raising, None, raising, raising, None])

    def answer(text: str, context: object) -> StateResult:
        outcome = next(outcomes)
        return outcome(text, context) if outcome else StateResult("Fine.")

    async with call([Talker(answer=answer)]) as world:
        await world.greeted()
        for _ in range(6):
            await world.say(0.6, then=6.0)
        assert world.leg.hung_up is None


@pytest.mark.parametrize(
    "value", [None, 7, {"next_state": "talk"}, {"response": 3}, {"response": "x", "next_state": 1}]
)
async def test_what_no_state_may_return_is_an_apology_too(value: object) -> None:
    async with call([Talker(answer=lambda text, context: value)]) as world:
        await world.greeted()
        await world.say(0.6, then=5.0)
        assert world.turns[-1]["heard"] == phrases.APOLOGY


async def test_f24_a_slow_state_gets_a_filler_after_two_seconds() -> None:
    async def slow(text: str, context: object) -> StateResult:
        await asyncio.sleep(5.0)
        return StateResult("At last.")

    async with call([Talker(answer=slow)]) as world:
        await world.greeted()
        began = world.session.now() - world.leg.began
        await world.say(0.6, then=9.0)
        first = min(at for at in world.times("media") if at > began)
        assert 3.0 - 0.032 <= first - began <= 3.06  # 0.6 s of speech, 0.4 s of silence, 2 s of thinking
        assert world.turns[-1]["heard"] == f"{phrases.FILLER} At last."
        assert world.metric("filler_total", reason="slow") == 1


async def test_f24_a_state_that_never_returns_ends_its_turn_at_the_timeout() -> None:
    async def never(text: str, context: object) -> StateResult:
        await asyncio.Event().wait()
        raise AssertionError

    async with call([Talker(answer=never)], turn_timeout_s=10.0) as world:
        await world.greeted()
        await world.say(0.6, then=17.0)
        assert world.turns[-1]["heard"] == f"{phrases.FILLER} {phrases.APOLOGY}"
        assert world.metric("turn_timeouts_total") == 1
        assert not world.is_over


async def test_f7_failing_recognition_asks_to_repeat_and_then_offers_the_keys() -> None:
    stt = SlowStt(["hello there"])
    async with call(stt=stt) as world:
        await world.greeted()
        stt.error = SpeechError("out of order")
        await world.say(0.6, then=6.0)
        assert world.turns[-1]["heard"] == phrases.NOT_HEARD
        await world.say(0.6, then=6.0)
        assert world.turns[-1]["heard"] == phrases.NOT_HEARD_KEYS
        assert world.metric("provider_errors_total", provider="slow", kind="recognition") == 2
        stt.error = None
        await world.say(0.6, then=5.0)
        assert world.turns[-1]["heard"] == ANSWER


async def test_f7_recognition_that_hangs_is_given_up_after_its_deadline() -> None:
    async with call(stt=SlowStt(["hello"], delay_s=60.0)) as world:
        await world.greeted()
        await world.say(0.6, then=15.0)
        assert world.turns[-1]["heard"] == phrases.NOT_HEARD


async def test_long_speech_without_words_is_answered_and_a_short_noise_is_not() -> None:
    async with call(script=[""], no_input_timeout=30.0) as world:
        await world.greeted()
        await world.say(0.4, then=4.0)
        assert len(world.turns) == 1
        await world.say(1.4, then=6.0)
        assert world.turns[-1]["heard"] == phrases.NOT_HEARD


async def test_f8_failing_synthesis_is_heard_as_a_kept_apology() -> None:
    tts = BrokenTts("eight words")
    async with call(tts=tts) as world:
        await world.greeted()
        await world.say(0.6, then=6.0)
        assert tts.failed == 1
        assert world.turns[-1]["heard"] == phrases.APOLOGY
        assert world.context.history[-1].spoken == ANSWER
        assert world.metric("provider_errors_total", provider="scripted", kind="speech") == 1


async def test_f8_what_was_said_before_synthesis_failed_is_heard_to_its_end() -> None:
    tts = BrokenTts("second")
    async with call([Talker(answer=lambda text, context: "The first. The second.")], tts=tts) as world:
        await world.greeted()
        await world.say(0.6, then=7.0)
        assert world.turns[-1]["heard"] == f"The first. {phrases.APOLOGY}"


async def test_a_session_whose_callback_raises_ends_politely(caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Talker):
        def utterance_complete(self, text: str) -> bool | None:
            raise ZeroDivisionError

    async with call([Raising()]) as world:
        await world.greeted()
        await world.say(0.6, then=5.0)
        assert world.turns[-1]["heard"] == ANSWER  # the rule's own opinion stands in
        assert not world.is_over
    assert "utterance_complete failed" in caplog.text


async def test_a_greeting_that_cannot_be_made_is_an_apology_and_listening_goes_on() -> None:
    class Raising(Talker):
        async def on_enter(self, context: object) -> str:
            raise RuntimeError

    async with call([Raising()]) as world:
        await world.silence(5.0)
        assert world.turns[0]["heard"] == phrases.APOLOGY
        await world.say(0.6, then=5.0)
        assert world.turns[-1]["heard"] == ANSWER


async def test_the_session_closes_with_a_goodbye_whatever_it_was_doing() -> None:
    async with call() as world:
        await world.silence(1.0)
        world.session.close(HangupReason.SHUTDOWN)
        await world.silence(6.0)
        assert world.leg.hung_up is HangupReason.SHUTDOWN
        assert world.turns[0]["interrupted"]
        assert world.turns[-1]["heard"] == phrases.CLOSING
        assert GREETING.startswith(world.turns[0]["heard"])
