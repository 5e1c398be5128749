"""Embedded recognition and synthesis, with their real models."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from fastagent.media.barge_in import words
from fastagent.media.errors import SpeechError
from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.level import frame_levels_db
from fastagent.media.resample import resample_block
from fastagent.media.speech.contracts import Speech
from fastagent.media.speech.embedded_stt import EmbeddedStt
from fastagent.media.speech.embedded_tts import EmbeddedTts, trim_silence
from fastagent.media.speech.rendering import Renderer
from fastagent.media.wav import read_wav
from tests.support.audio import tone
from tests.support.loop import DelayedExecutor, InlineExecutor, JumpingLoop

SAMPLES = Path(__file__).parents[2] / "samples"
WIDE = AudioFormat("L16", 16000)


@pytest.fixture(scope="module")
def speech() -> Speech:
    stt, tts = EmbeddedStt(InlineExecutor()), EmbeddedTts(InlineExecutor())

    async def warm_up() -> None:
        await stt.warm_up()
        await tts.warm_up()

    loop = JumpingLoop()
    loop.run_until_complete(warm_up())
    loop.close()
    return Speech(stt, tts)


def sample(name: str, audio: AudioFormat = PCMU_8K) -> bytes:
    frame = read_wav(SAMPLES / name)
    return audio.encode(resample_block(frame.samples, frame.rate_hz, audio.rate_hz))


async def recognised(speech: Speech, *payloads: bytes, audio: AudioFormat = PCMU_8K) -> list[str]:
    stream = speech.stt.open(audio)
    for payload in payloads:
        stream.push(payload)
    transcript = await stream.finalize()
    await stream.aclose()
    return words(transcript.text)


# -- recognition -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dev_02.wav", "yes please"),
        ("dev_03.wav", "no i don't think so"),
        ("dev_07.wav", "my name is david thompson"),
        ("dev_08.wav", "what are your opening hours on sunday"),
    ],
)
async def test_telephone_speech_is_recognised(speech: Speech, name: str, text: str) -> None:
    assert await recognised(speech, sample(name)) == text.split()


async def test_the_recogniser_tells_how_sure_it_is(speech: Speech) -> None:
    stream = speech.stt.open(PCMU_8K)
    stream.push(sample("dev_03.wav"))
    transcript = await stream.finalize()
    assert transcript.confidence is not None
    assert 0.6 < transcript.confidence <= 1


async def test_wideband_speech_is_recognised(speech: Speech) -> None:
    assert await recognised(speech, sample("dev_07.wav", WIDE), audio=WIDE) == "my name is david thompson".split()


async def test_speech_may_come_in_any_pieces(speech: Speech) -> None:
    payload = sample("dev_02.wav")
    pieces = [payload[at : at + 77] for at in range(0, len(payload), 77)]
    assert await recognised(speech, *pieces) == ["yes", "please"]


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.empty(0, np.int16), id="nothing"),
        pytest.param(np.zeros(16000, np.int16), id="silence"),
        pytest.param(np.random.default_rng(1).normal(0, 1500, 24000).astype(np.int16), id="noise"),
        pytest.param(tone(2.0), id="tone"),
    ],
)
async def test_what_is_no_speech_has_no_words(speech: Speech, samples: np.typing.NDArray[np.int16]) -> None:
    assert await recognised(speech, PCMU_8K.encode(samples)) == []


async def test_an_utterance_that_goes_on_is_recognised_with_its_beginning(speech: Speech) -> None:
    stream = speech.stt.open(PCMU_8K)
    stream.push(sample("dev_02.wav"))
    first = words((await stream.finalize()).text)
    stream.push(sample("dev_07.wav"))
    assert words((await stream.finalize()).text) == [*first, "my", "name", "is", "david", "thompson"]


async def test_the_next_utterance_begins_without_the_last_one(speech: Speech) -> None:
    stream = speech.stt.open(PCMU_8K)
    stream.push(sample("dev_07.wav"))
    stream.restart()
    stream.push(sample("dev_02.wav"))
    assert words((await stream.finalize()).text) == ["yes", "please"]
    await stream.aclose()
    await stream.aclose()


async def test_calls_do_not_hear_each_other(speech: Speech) -> None:
    a, b = speech.stt.open(PCMU_8K), speech.stt.open(PCMU_8K)
    a.push(sample("dev_02.wav"))
    b.push(sample("dev_03.wav"))
    assert words((await a.finalize()).text) == ["yes", "please"]
    assert words((await b.finalize()).text) == ["no", "i", "don't", "think", "so"]


async def test_of_a_very_long_utterance_the_first_thirty_seconds_count(speech: Speech) -> None:
    beginning = sample("dev_02.wav")
    silence = PCMU_8K.silence(30 * 8000 - len(beginning))
    assert "thompson" not in await recognised(speech, beginning, silence, sample("dev_07.wav"))


# -- synthesis -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["Your appointment is on Thursday at half past 10.", "Would you like to speak to somebody?"]
)
async def test_what_is_said_on_the_phone_is_understood(speech: Speech, text: str) -> None:
    rendered = await Renderer(speech.tts).render(text, PCMU_8K)
    heard = await recognised(speech, PCMU_8K.silence(2400), rendered.payload, PCMU_8K.silence(2400))
    assert heard == words(text)


async def test_a_sentence_begins_at_once_and_ends_with_a_short_pause(speech: Speech) -> None:
    frames = [frame async for frame in speech.tts.stream("Hello there.")]
    samples = np.concatenate([frame.samples for frame in frames])
    assert {frame.rate_hz for frame in frames} == {24000}
    audible = np.flatnonzero(frame_levels_db(samples, 480) > -50)
    assert audible[0] <= 1
    assert len(samples) // 480 - audible[-1] <= 9
    assert -30 < frame_levels_db(samples, 480).max() < -1


async def test_a_sentence_sounds_the_same_every_time(speech: Speech) -> None:
    first, second = [[frame async for frame in speech.tts.stream("Goodbye.")] for _ in range(2)]
    assert np.array_equal(first[0].samples, second[0].samples)


@pytest.mark.parametrize(
    "text", ["", " ", "...", "—", "日本語", "😀", "<b>hi</b>", "\x00", "a" * 300, "naïve café, $5.99"]
)
async def test_texts_that_are_hardly_words_are_said_as_far_as_they_can_be(speech: Speech, text: str) -> None:
    rendered = await Renderer(speech.tts).render(text, PCMU_8K)
    assert len(rendered.payload) < 60 * 8000


async def test_a_text_that_the_model_cannot_say_is_a_speech_error(speech: Speech) -> None:
    with pytest.raises(SpeechError):
        await Renderer(speech.tts).render("Your number is " + "1234567890" * 4, PCMU_8K)


# -- failures --------------------------------------------------------------------------------------------------------


async def test_recognition_before_the_model_is_loaded_is_a_speech_error() -> None:
    with pytest.raises(SpeechError, match="not loaded"):
        await EmbeddedStt(InlineExecutor()).open(PCMU_8K).finalize()


async def test_synthesis_before_the_model_is_loaded_is_a_speech_error() -> None:
    with pytest.raises(SpeechError, match="not loaded"):
        await anext(aiter(EmbeddedTts(InlineExecutor()).stream("Hello.")))


async def test_recognition_that_is_not_served_in_ten_seconds_is_a_speech_error() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(SpeechError, match="too long"):
        await EmbeddedStt(DelayedExecutor(60)).open(PCMU_8K).finalize()
    assert loop.time() - began == pytest.approx(10)


async def test_synthesis_that_is_not_served_in_ten_seconds_is_a_speech_error() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(SpeechError, match="too long"):
        await anext(aiter(EmbeddedTts(DelayedExecutor(60)).stream("Hello.")))
    assert loop.time() - began == pytest.approx(10)


async def test_recognition_can_be_cancelled() -> None:
    task = asyncio.create_task(EmbeddedStt(DelayedExecutor(5)).open(PCMU_8K).finalize())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- trimming --------------------------------------------------------------------------------------------------------


def test_silence_around_speech_is_cut_to_one_frame_before_and_eight_behind() -> None:
    silence = np.zeros(24000, np.int16)
    spoken = tone(0.5, 440, 24000)
    assert len(trim_silence(np.concatenate([silence, spoken, silence]), 24000)) == 480 + 12000 + 8 * 480


def test_speech_without_silence_around_it_stays_whole() -> None:
    spoken = tone(0.5, 440, 24000)
    assert np.array_equal(trim_silence(spoken, 24000), spoken)


def test_nothing_audible_is_nothing() -> None:
    assert len(trim_silence(np.full(24000, 50, np.int16), 24000)) == 0
    assert len(trim_silence(np.empty(0, np.int16), 24000)) == 0
