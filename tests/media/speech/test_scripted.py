"""Scripted speech."""

import pytest

from fastagent.media.frame import PCMU_8K
from fastagent.media.level import frame_levels_db, level_db
from fastagent.media.speech.contracts import Transcript
from fastagent.media.speech.scripted import ScriptedStt, ScriptedTts, prepared_speech, scripted_speech


async def spoken_s(text: str) -> float:
    return sum([frame.duration_s async for frame in ScriptedTts().stream(text)])


async def test_every_call_hears_the_script_from_its_beginning_and_its_last_line_for_ever() -> None:
    stt = ScriptedStt(["One.", "Two.", "Three."])
    for stream in (stt.open(PCMU_8K), stt.open(PCMU_8K)):
        heard = []
        for _ in range(5):
            stream.push(b"\xff" * 160)
            heard.append((await stream.finalize()).text)
            stream.restart()
        assert heard == ["One.", "Two.", "Three.", "Three.", "Three."]


async def test_an_utterance_that_goes_on_keeps_its_line() -> None:
    stream = ScriptedStt(["One.", "Two."]).open(PCMU_8K)
    assert await stream.finalize() == Transcript("One.", 1.0)
    stream.push(b"\xff" * 160)
    assert await stream.finalize() == Transcript("One.", 1.0)


async def test_a_restart_without_recognition_takes_no_line() -> None:
    stream = ScriptedStt(["One.", "Two."]).open(PCMU_8K)
    stream.restart()
    stream.restart()
    assert (await stream.finalize()).text == "One."


async def test_a_stream_may_be_closed_twice() -> None:
    stream = ScriptedStt().open(PCMU_8K)
    await stream.aclose()
    await stream.aclose()


@pytest.mark.parametrize(
    ("text", "seconds"), [("one two three four five six seven eight", 3.0), ("one two", 0.75), ("one", 0.4), ("", 0.4)]
)
async def test_eight_words_are_three_seconds(text: str, seconds: float) -> None:
    assert await spoken_s(text) == pytest.approx(seconds, abs=1e-3)


async def test_a_long_text_repeats_the_prepared_speech() -> None:
    frames = [frame async for frame in ScriptedTts().stream("word " * 24)]
    samples = frames[0].samples
    assert samples.tolist() == prepared_speech().samples.tolist() * 3


def test_the_prepared_speech_is_three_seconds_of_audible_speech() -> None:
    speech = prepared_speech()
    assert (speech.rate_hz, speech.duration_s) == (8000, 3.0)
    assert -30 < level_db(speech.samples) < -10
    assert (frame_levels_db(speech.samples, 160) > -45).mean() > 0.6


async def test_the_pair_is_named_and_warms_up_at_once() -> None:
    speech = scripted_speech(["Hi."])
    await speech.stt.warm_up()
    await speech.tts.warm_up()
    assert (speech.stt.name, speech.tts.name) == ("scripted", "scripted")
    assert (await speech.stt.open(PCMU_8K).finalize()).text == "Hi."
