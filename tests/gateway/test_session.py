"""Sessions in virtual time: what the caller hears, what the history keeps, and when the leg is cleared."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from fastagent.afsm import ConversationContext, StateResult
from fastagent.connectors.leg import HangupReason
from fastagent.gateway import phrases
from fastagent.media.frame import PCMU_8K
from tests.support.audio import loud_frames, speech
from tests.support.world import ANSWER, GREETING, SlowStt, Talker, call, silero


async def test_the_greeting_goes_out_at_once_and_is_remembered_as_heard() -> None:
    async with call() as world:
        await world.greeted()
        assert world.times("media")[0] == 0.0
        assert [(turn["cause"], turn["heard"]) for turn in world.turns] == [("opening", GREETING)]
        assert world.context.history[0].heard == GREETING
        assert any(loud_frames(bytes(world.leg.heard)))


async def test_an_agent_knows_who_calls_whom() -> None:
    async with call() as world:
        await world.greeted()
        assert world.context.metadata == {"caller_id": "+15550100001", "called_id": "+15550100002"}


async def test_an_utterance_is_answered_after_the_short_delay() -> None:
    async with call() as world:
        await world.greeted()
        began = world.session.now() - world.leg.began
        await world.say(1.0, then=4.0)
        answer = min(at for at in world.times("media") if at > began)
        # 1.0 s of speech, 0.4 s of silence, and at most a window of 32 ms and a frame of 20 ms
        assert 1.4 - 0.032 <= answer - began <= 1.4 + 0.052
        assert world.turns[-1]["user"] == "hello there"
        assert world.turns[-1]["heard"] == ANSWER


async def test_an_unfinished_sentence_is_waited_for() -> None:
    async with call(script=["my name is"]) as world:
        await world.greeted()
        began = world.session.now() - world.leg.began
        await world.say(1.0, then=4.0)
        answer = min(at for at in world.times("media") if at > began)
        assert 2.5 - 0.032 <= answer - began <= 2.5 + 0.052


async def test_a_caller_who_goes_on_after_a_pause_is_one_utterance() -> None:
    stt = SlowStt(["I would like to", "never reached"])
    async with call(stt=stt) as world:
        await world.greeted()
        await world.say(0.8, then=0.5)
        await world.say(0.8, then=5.0)
        assert stt.finalized == 2
        assert [turn["user"] for turn in world.turns] == ["", "I would like to"]


async def test_recognition_hides_inside_the_endpointing_wait() -> None:
    async with call(stt=SlowStt(["hello there"], delay_s=0.15)) as world:
        await world.greeted()
        await world.say(1.0, then=4.0)
        waterfall = world.turns[-1]["waterfall_ms"]
        assert waterfall["recognition"] == 0.0
        assert 380 <= waterfall["total"] <= 460


async def test_slow_recognition_shows_in_the_waterfall_which_still_adds_up() -> None:
    async with call(stt=SlowStt(["hello there"], delay_s=0.7)) as world:
        await world.greeted()
        await world.say(1.0, then=5.0)
        waterfall = world.turns[-1]["waterfall_ms"]
        assert 450 <= waterfall["recognition"] <= 560
        parts = sum(value for name, value in waterfall.items() if name != "total")
        assert abs(parts - waterfall["total"]) < 0.2


async def test_speech_over_the_answer_pauses_it_at_once_and_nothing_is_sent_until_a_verdict() -> None:
    async with call() as world:
        await world.silence(1.0)  # into the greeting
        at = world.session.now() - world.leg.began
        await world.say(0.5)
        (cleared,) = world.times("clear")
        assert 0.064 <= cleared - at <= 0.15  # three windows, the first one perhaps in part
        assert world.sent_after(cleared) == 0


async def test_words_over_the_answer_interrupt_it_and_history_keeps_what_was_heard() -> None:
    async with call(script=["no stop please"]) as world:
        await world.silence(1.2)
        await world.say(0.6, then=1.0)
        assert world.metric("barge_in_total", verdict="interrupt") == 1
        opening = world.turns[0]
        assert opening["interrupted"]
        assert GREETING.startswith(opening["heard"])
        assert 0 < len(opening["heard"]) < len(GREETING)
        assert world.context.history[0].interrupted
        assert world.turns[1]["user"] == "no stop please"


async def test_long_speech_interrupts_before_its_words_are_known() -> None:
    async with call(stt=SlowStt(["anything"], delay_s=30.0)) as world:
        await world.silence(1.0)
        await world.say(1.3)
        assert world.metric("barge_in_total", verdict="interrupt") == 1


async def test_a_backchannel_lets_the_agent_resume_from_where_it_was_heard() -> None:
    async with call(script=["Mm-hm."]) as world:
        await world.silence(1.0)
        await world.say(0.4, then=6.0)
        assert world.metric("barge_in_total", verdict="resume") == 1
        assert world.turns[0]["heard"] == GREETING
        assert not world.turns[0]["interrupted"]
        assert len(world.turns) == 1  # the backchannel was no utterance
        # All of the greeting was played once, none of it twice: resumed at the frame where it was cut.
        sent = sum(size for _, kind, size in world.leg.sent if kind == "media")
        dropped = sent - world.leg.emulator.received_bytes
        assert dropped == 0
        heard_s = sum(loud_frames(bytes(world.leg.heard))) * 0.02
        assert heard_s > 1.0


async def test_noise_without_words_lets_the_agent_resume() -> None:
    async with call(script=[""]) as world:
        await world.silence(1.0)
        await world.say(0.3, then=5.0)
        assert world.metric("barge_in_total", verdict="resume") == 1
        assert world.turns[0]["heard"] == GREETING


async def test_a_guess_of_the_recogniser_about_a_short_sound_is_no_interruption() -> None:
    async with call(stt=SlowStt(["mamma"], confidence=0.27)) as world:
        await world.silence(1.0)
        await world.say(0.4, then=5.0)
        assert world.metric("barge_in_total", verdict="resume") == 1


async def test_an_interruption_that_nothing_confirms_is_resumed_after_its_timeout() -> None:
    async with call(stt=SlowStt(["late"], delay_s=9.0)) as world:
        await world.silence(1.0)
        at = world.session.now() - world.leg.began
        await world.say(0.4, then=4.0)
        (cleared,) = world.times("clear")
        resumed = min(when for when in world.times("media") if when > cleared)
        assert 2.3 <= resumed - at <= 2.6  # 0.4 s of speech and `false_interruption_timeout`
        assert world.metric("barge_in_total", verdict="resume") == 1


async def test_marks_that_a_clear_released_do_not_count_as_heard() -> None:
    async with call(script=["stop it now"]) as world:
        await world.silence(1.0)
        await world.say(0.6, then=0.5)
        heard = world.turns[0]["heard"]
        # About 1.1 s of 2.6 s had been played when the leg was cleared.
        assert len(heard) <= len(GREETING) * 0.55


async def test_a_click_of_100_ms_does_not_even_pause_the_agent() -> None:
    rng = np.random.default_rng(3)
    at = np.arange(800) / 8000
    clicks = [
        rng.standard_normal(800) * 6000,
        rng.standard_normal(800) * 12000 * np.exp(-at / 0.01),
        9000 * np.sin(2 * np.pi * 900 * at),
        6000 * (np.sin(2 * np.pi * 770 * at) + np.sin(2 * np.pi * 1336 * at)),
    ]
    async with call([Talker(greeting=" ".join([GREETING] * 4))], vad=silero()) as world:
        await world.silence(1.0)
        for click in clicks:
            world.leg.speak(PCMU_8K.encode(click.clip(-32768, 32767).astype(np.int16)))
            await world.silence(1.5)
        assert world.session.speaker.speaking
        assert world.times("clear") == []


async def test_speech_over_the_answer_pauses_it_with_the_real_model_too() -> None:
    async with call([Talker(greeting=" ".join([GREETING] * 4))], vad=silero()) as world:
        await world.silence(1.0)
        world.leg.speak(speech(0.7))
        await world.silence(1.0)
        assert len(world.times("clear")) == 1


async def test_the_agents_own_echo_20_db_below_does_not_pause_it() -> None:
    async with call() as world:
        await world.silence(0.5)
        echo = bytes(world.leg.heard)
        quiet = (PCMU_8K.decode(echo) / 10).astype("int16")
        world.leg.speak(PCMU_8K.encode(quiet) * 3)
        await world.silence(1.5)
        assert world.times("clear") == []


async def test_a_state_can_forbid_interruptions() -> None:
    async with call([Talker(interruptible=False)]) as world:
        await world.silence(0.5)
        await world.say(1.2, then=3.0)
        assert world.times("clear") == []
        assert len(world.turns) == 1


async def test_speech_while_the_agent_thinks_is_joined_with_what_was_said() -> None:
    async def think(text: str, context: object) -> StateResult:
        await asyncio.sleep(1.6)
        return StateResult(f"You said {text}.")

    async with call([Talker(answer=think)], stt=SlowStt(["I have a question", "about my bill"])) as world:
        await world.greeted()
        await world.say(0.6, then=0.6)
        await world.say(0.6, then=6.0)
        assert [turn["user"] for turn in world.turns] == ["", "I have a question about my bill"]
        assert "You said I have a question about my bill." in world.turns[-1]["heard"]


async def test_an_answer_that_is_ready_while_the_caller_speaks_again_is_never_begun() -> None:
    async def think(text: str, context: object) -> StateResult:
        await asyncio.sleep(0.7)
        return StateResult(f"You said {text}.")

    async with call([Talker(answer=think)], stt=SlowStt(["I have a question", "about my bill"])) as world:
        await world.greeted()
        began = world.session.now() - world.leg.began
        await world.say(0.6, then=0.6)
        await world.say(1.4)
        assert all(at < began for at in world.times("media"))
        await world.silence(5.0)
        assert [(turn["user"], turn["heard"]) for turn in world.turns[1:]] == [
            ("I have a question", ""),
            ("about my bill", "You said about my bill."),
        ]


async def test_an_answer_held_back_for_a_noise_is_spoken_after_all() -> None:
    async def think(text: str, context: object) -> StateResult:
        await asyncio.sleep(0.5)
        return StateResult("Here you are.")

    async with call([Talker(answer=think)], stt=SlowStt(["I have a question", ""])) as world:
        await world.greeted()
        await world.say(0.6, then=0.6)
        await world.say(0.5, then=4.0)
        assert [(turn["user"], turn["heard"]) for turn in world.turns[1:]] == [("I have a question", "Here you are.")]


async def test_a_committed_transition_survives_an_interruption() -> None:
    states = [
        Talker(
            "first", lambda text, context: {"response": ANSWER, "next_state": "second"}, allowed_transitions=["second"]
        ),
        Talker("second", greeting=""),
    ]
    async with call(states, script=["go on please"]) as world:
        await world.greeted()
        await world.say(0.6, then=1.2)
        assert world.session.machine.state.name == "second"
        await world.say(0.6, then=1.0)  # over the answer
        assert world.turns[1]["interrupted"]
        assert world.session.machine.state.name == "second"


async def test_an_illegal_transition_changes_nothing_and_is_counted() -> None:
    async with call([Talker(answer=lambda text, context: {"response": "ok", "next_state": "nowhere"})]) as world:
        await world.greeted()
        await world.say(0.6, then=3.0)
        assert world.session.machine.state.name == "talk"
        assert world.metric("transitions_refused_total") == 1
        assert world.turns[-1]["heard"] == "ok"


async def test_the_caller_hangs_up_in_the_middle_of_an_answer() -> None:
    async with call() as world:
        await world.silence(1.0)
        world.leg.caller_hangs_up()
        assert await world.ended() is HangupReason.CALLER_HUNG_UP
        assert world.turns[0]["interrupted"]
        sent = len(world.leg.sent)
        await asyncio.sleep(2.0)
        assert len(world.leg.sent) == sent


async def test_a_terminal_state_hangs_up_once_its_words_were_heard() -> None:
    states = [
        Talker("ask", lambda text, context: {"response": "Fine.", "next_state": "end"}, allowed_transitions=["end"]),
        Talker("end", greeting="Goodbye and thank you.", terminal=True),
    ]
    async with call(states) as world:
        await world.greeted()
        await world.say(0.6, then=6.0)
        assert world.leg.hung_up is HangupReason.COMPLETED
        assert world.turns[-1]["heard"] == "Fine. Goodbye and thank you."
        assert world.leg.emulator.buffered_ms == 0


async def test_without_marks_the_clock_decides_what_was_heard() -> None:
    async with call() as world:
        world.leg.lose_marks = True
        await world.silence(8.0)
        assert world.turns[0]["heard"] == GREETING
        await world.say(0.6, then=1.0)
        assert len(world.turns) == 2


async def test_silence_is_answered_and_then_ends_the_call() -> None:
    async with call(no_input_timeout=5.0, goodbye="Goodbye then.") as world:
        await world.silence(30.0)
        causes = [turn["cause"] for turn in world.turns]
        assert causes == ["opening", "no_input", "no_input"]
        assert [turn["heard"] for turn in world.turns[1:]] == ["Are you still there?", "Goodbye then."]
        assert world.leg.hung_up is HangupReason.NO_INPUT


async def test_keys_interrupt_and_are_collected_as_the_state_wants() -> None:
    async with call([Talker(answer=lambda text, context: f"Got {text}.", dtmf_max_digits=4)]) as world:
        await world.silence(1.0)
        for digit in "12":
            world.leg.press(digit)
            await world.silence(0.3)
        assert len(world.times("clear")) == 1
        await world.silence(4.0)  # the inter-digit timeout ends them
        assert "Got 12." in world.turns[-1]["heard"]
        for digit in "345#":
            world.leg.press(digit)
            await world.silence(0.1)
        await world.silence(2.5)
        assert "Got 345." in world.turns[-1]["agent"]
        for digit in "6789":
            world.leg.press(digit)
            await world.silence(0.1)
        await world.silence(2.5)
        assert "Got 6789." in world.turns[-1]["agent"]


async def test_digits_do_not_reach_the_transcript() -> None:
    async with call([Talker(answer=lambda text, context: "Thanks.", dtmf_max_digits=4)]) as world:
        await world.greeted()
        for digit in "4711":
            world.leg.press(digit)
        await world.silence(2.0)
        assert world.turns[-1]["user"] == "[keys 4]"


async def test_a_call_longer_than_the_limit_is_ended_with_a_goodbye() -> None:
    async with call(max_duration=60.0, no_input_timeout=600.0) as world:
        await world.silence(75.0)
        assert world.leg.hung_up is HangupReason.MAX_DURATION
        assert "We have to end this call now." in world.turns[-1]["heard"]


async def test_lead_stays_within_its_bound_with_a_slow_network() -> None:
    async with call(delay_s=0.08) as world:
        await world.greeted()
        await world.say(0.6, then=4.0)
        assert world.leg.emulator.max_buffered <= 400 * 8
        assert world.leg.emulator.violations == []
        assert world.session.speaker.playout.stats.underruns == 0


async def test_an_hour_of_conversation_leaves_nothing_behind() -> None:
    async with call([Talker(answer=lambda text, context: "Yes.")], max_duration=4000.0) as world:
        await world.greeted()
        for _ in range(300):
            await world.say(0.5, then=2.5)
        before = len(asyncio.all_tasks())
        kept = len(world.session.inbound._kept)
        for _ in range(900):
            await world.say(0.5, then=2.5)
        assert world.session.record.turn_count == 1201
        assert len(world.turns) == 200
        assert len(asyncio.all_tasks()) == before
        assert abs(len(world.session.inbound._kept) - kept) < 16000


async def test_a_generator_is_spoken_sentence_by_sentence_while_it_works() -> None:
    async def tell(text: str, context: object) -> AsyncIterator[object]:
        for word in "First of all, hello. Then some more words ".split(" "):
            yield f"{word} "
        await asyncio.sleep(3.0)
        yield "to come."
        yield StateResult("That is it.", "second")

    class Telling(Talker):
        async def process(self, input_text: str, context: object) -> AsyncIterator[object]:  # type: ignore[override]
            async for piece in tell(input_text, context):
                yield piece

    states = [Telling("first", allowed_transitions=["second"]), Talker("second", greeting="")]
    async with call(states) as world:
        await world.greeted()
        began = world.session.now() - world.leg.began
        await world.say(0.6, then=9.0)
        first = min(at for at in world.times("media") if at > began)
        assert first - began <= 0.6 + 0.4 + 0.06  # long before the generator has ended
        turn = world.turns[-1]
        assert turn["heard"] == "First of all, hello. Then some more words to come. That is it."
        assert turn["agent"] == turn["heard"]
        assert world.session.machine.state.name == "second"


async def test_a_state_may_speak_while_it_works() -> None:
    async def look_up(text: str, context: ConversationContext) -> StateResult:
        context.say("Let me look. ")
        await asyncio.sleep(1.9)
        return StateResult("Found it.")

    async with call([Talker(answer=look_up)]) as world:
        await world.greeted()
        await world.say(0.6, then=6.0)
        assert world.turns[-1]["heard"] == "Let me look. Found it."
        assert world.metric("filler_total", reason="slow") == 0


async def test_an_interrupted_generator_is_closed_and_commits_nothing() -> None:
    closed = []

    class Telling(Talker):
        async def process(self, input_text: str, context: object) -> AsyncIterator[object]:  # type: ignore[override]
            try:
                for _ in range(20):
                    yield "These are some words to be heard. "
                    await asyncio.sleep(1.0)
                yield StateResult("", "second")
            finally:
                closed.append(True)

    states = [Telling("first", allowed_transitions=["second"]), Talker("second", greeting="")]
    async with call(states, script=["tell me", "stop it please"]) as world:
        await world.greeted()
        await world.say(0.6, then=2.5)
        await world.say(0.6, then=0.3)
        assert closed == [True]
        assert world.session.machine.state.name == "first"
        assert world.turns[1]["interrupted"]


async def test_a_generator_that_stalls_ends_in_an_apology_after_what_it_said() -> None:
    class Stalling(Talker):
        async def process(self, input_text: str, context: object) -> AsyncIterator[object]:  # type: ignore[override]
            yield "This much is known. And then"
            await asyncio.Event().wait()

    async with call([Stalling()], turn_timeout_s=5.0) as world:
        await world.greeted()
        await world.say(0.6, then=15.0)
        assert world.turns[-1]["heard"] == f"This much is known. {phrases.APOLOGY}"
        assert world.metric("turn_timeouts_total") == 1


async def test_an_utterance_beyond_the_limit_is_recognised_before_it_is_answered() -> None:
    stt = SlowStt(["first", "a very long story"], delay_s=0.2)
    async with call(stt=stt, turn_config={"max_utterance": 3.0}) as world:
        await world.greeted()
        await world.say(0.6, then=5.0)
        await world.say(5.0, then=1.0)
        assert [turn["user"] for turn in world.turns[1:3]] == ["first", "a very long story"]


async def test_a_filler_does_not_talk_over_a_caller_who_goes_on() -> None:
    async def think(text: str, context: object) -> StateResult:
        await asyncio.sleep(4.0)
        return StateResult(f"You said {text}.")

    async with call([Talker(answer=think)], stt=SlowStt(["I would like to book", "for Tuesday"])) as world:
        await world.greeted()
        began = world.session.now() - world.leg.began
        await world.say(0.6, then=3.2)  # the unfinished sentence ends 1.5 s later; the filler would come at 4.1 s
        await world.say(1.0, then=8.0)
        spoken = [at - began for at in world.times("media") if at > began]
        assert all(not 3.9 <= at <= 4.8 for at in spoken)
        assert "for Tuesday" in world.turns[-1]["user"]


async def test_a_yes_into_the_last_syllable_is_an_answer_and_no_backchannel() -> None:
    async with call(script=["Yeah."]) as world:
        length = len(GREETING.split()) / 8 * 3
        await world.silence(length - 0.25)
        await world.say(0.5, then=5.0)
        assert world.times("clear") == []
        assert [turn["user"] for turn in world.turns] == ["", "Yeah."]
        assert world.turns[0]["heard"] == GREETING


async def test_the_terminator_after_a_complete_input_is_no_key_of_its_own() -> None:
    async with call([Talker(answer=lambda text, context: f"Got {text}.", dtmf_max_digits=4)]) as world:
        await world.greeted()
        for digit in "1234":
            world.leg.press(digit)
            await world.silence(0.1)
        await world.silence(0.5)
        world.leg.press("#")
        await world.silence(4.0)
        assert [turn["agent"] for turn in world.turns[1:]] == ["Got 1234."]
        assert not world.turns[1]["interrupted"]


async def test_keys_that_waited_for_a_failed_turn_do_not_replace_a_later_one() -> None:
    async def slow(text: str, context: object) -> StateResult:
        await asyncio.sleep(1.0)
        if text == "1":
            raise RuntimeError("bad key")
        return StateResult(f"Heard {text}.")

    async with call([Talker(answer=slow)]) as world:
        await world.greeted()
        world.leg.press("1")
        await world.silence(0.1)
        world.leg.press("2")
        await world.silence(8.0)
        await world.say(0.6, then=5.0)
        assert world.turns[-1]["heard"] == "Heard hello there."


async def test_a_callback_that_keeps_raising_ends_the_call_once_and_soon(caplog: pytest.LogCaptureFixture) -> None:
    async with call() as world:
        await world.greeted()

        def push(payload: bytes) -> None:
            raise RuntimeError("broken recogniser")

        world.session._stt.push = push  # type: ignore[method-assign]
        await world.say(2.0, then=8.0)
        assert world.leg.hung_up is HangupReason.INTERNAL_ERROR
        assert world.turns[-1]["heard"] == phrases.GIVE_UP
    assert [record.message for record in caplog.records].count("session failed") == 1
