"""Rendering: synthesis, resampling and encoding, and what is kept."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from fastagent.media.errors import SpeechError
from fastagent.media.frame import PCMU_8K, AudioFormat, AudioFrame
from fastagent.media.g711 import Int16Array
from fastagent.media.playout import Playout
from fastagent.media.speech.rendering import Renderer, encode_speech
from tests.support.audio import tone

WIDE = AudioFormat("L16", 48000)
MEBIBYTE = 1 << 20


class Voice:
    """Says a tone for every text, in frames of the sizes asked for; may fail behind one of them."""

    name = "voice"

    def __init__(
        self, rate_hz: int = 24000, *, seconds: float = 1.0, frame: int = 10**9, fails_after: int | None = None
    ) -> None:
        self.rate_hz, self.seconds, self.frame, self.fails_after = rate_hz, seconds, frame, fails_after
        self.said: list[str] = []

    async def stream(self, text: str) -> AsyncIterator[AudioFrame]:
        self.said.append(text)
        samples = tone(self.seconds, 1000, self.rate_hz)
        for count, at in enumerate(range(0, len(samples), self.frame)):
            if count == self.fails_after:
                raise SpeechError("cut off")
            await asyncio.sleep(0.01)
            yield AudioFrame(samples[at : at + self.frame], self.rate_hz)

    async def warm_up(self) -> None:
        pass


class BigVoice(Voice):
    """Says a number of mebibytes, given as the text, at the rate of `WIDE`."""

    async def stream(self, text: str) -> AsyncIterator[AudioFrame]:
        self.said.append(text)
        await asyncio.sleep(0.01)
        yield AudioFrame(np.zeros(int(float(text.split()[0]) * MEBIBYTE) // 2, np.int16), 48000)


def loudest_hz(samples: Int16Array, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64)))
    return float(np.argmax(spectrum) * rate_hz / len(samples))


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 24000])
@pytest.mark.parametrize("audio", [PCMU_8K, AudioFormat("PCMA", 8000), AudioFormat("L16", 16000)], ids=str)
async def test_a_text_becomes_wire_audio_of_its_duration_and_sound(rate_hz: int, audio: AudioFormat) -> None:
    speech = await Renderer(Voice(rate_hz)).render("Hello.", audio)
    samples = audio.decode(speech.payload)
    assert speech.text == "Hello."
    assert abs(len(samples) - audio.rate_hz) <= 1
    assert loudest_hz(samples, audio.rate_hz) == pytest.approx(1000, abs=2)


@pytest.mark.parametrize("frame", [7, 240, 2399, 2400, 10_000])
async def test_the_size_of_the_frames_makes_no_difference(frame: int) -> None:
    whole = await Renderer(Voice()).render("Hello.", PCMU_8K)
    parts = await Renderer(Voice(frame=frame)).render("Hello.", PCMU_8K)
    differences = PCMU_8K.decode(whole.payload).astype(int) - PCMU_8K.decode(parts.payload)
    assert len(whole.payload) == len(parts.payload)
    assert np.abs(differences).max() <= 512  # a rounding may fall on the other side of a mu-law step


async def test_each_frame_of_the_wire_has_its_level() -> None:
    speech = encode_speech("x", np.concatenate([tone(0.02, 1000, level=1.0), np.zeros(200, np.int16)]), PCMU_8K)
    assert speech.levels_db.tolist() == pytest.approx([-3.0, -96.0, -96.0], abs=0.1)


async def test_a_voice_that_says_nothing_makes_an_empty_rendering_that_can_be_played() -> None:
    speech = await Renderer(Voice(seconds=0)).render("...", PCMU_8K)
    assert (speech.payload, speech.levels_db.tolist()) == (b"", [])
    playout = Playout(PCMU_8K)
    playout.begin()
    playout.write(speech)
    playout.flush()
    assert playout.tick(10.0) == []
    assert playout.finished


# -- what is kept ----------------------------------------------------------------------------------------------------


async def test_what_is_kept_is_rendered_once_and_known_without_waiting() -> None:
    voice, outcomes = Voice(), list[str]()
    renderer = Renderer(voice, on_render=outcomes.append)
    assert renderer.kept("Hello.", PCMU_8K) is None
    await renderer.keep(["Hello.", "Bye."], PCMU_8K)
    kept = renderer.kept("Hello.", PCMU_8K)
    assert kept is not None
    assert await renderer.render("Hello.", PCMU_8K) is kept
    assert voice.said == ["Hello.", "Bye."]
    assert outcomes == ["made", "made", "cached"]


async def test_what_nobody_asked_to_keep_is_forgotten() -> None:
    voice = Voice()
    renderer = Renderer(voice)
    await renderer.render("Your number is 5 5 5.", PCMU_8K)
    await renderer.render("Your number is 5 5 5.", PCMU_8K)
    assert renderer.kept("Your number is 5 5 5.", PCMU_8K) is None
    assert len(voice.said) == 2


async def test_a_kept_phrase_is_kept_for_each_format_in_which_it_is_said() -> None:
    voice = Voice()
    renderer = Renderer(voice)
    await renderer.keep(["Hello."], PCMU_8K)
    wide = AudioFormat("L16", 16000)
    made_over = renderer.kept("Hello.", wide)  # in an emergency the narrow one will do
    assert made_over is not None
    assert abs(len(made_over.payload) - 4 * len(renderer.kept("Hello.", PCMU_8K).payload)) <= 4  # type: ignore[union-attr]
    assert len(voice.said) == 1
    speech = await renderer.render("Hello.", wide)
    assert renderer.kept("Hello.", wide) is speech
    assert len(voice.said) == 2


async def test_the_oldest_phrases_go_when_more_than_16_mebibytes_are_kept() -> None:
    renderer = Renderer(BigVoice())
    await renderer.keep(["6 a", "6 b", "4 c"], WIDE)
    assert all(renderer.kept(text, WIDE) for text in ("6 a", "6 b", "4 c"))
    await renderer.keep(["1 d"], WIDE)
    assert [bool(renderer.kept(text, WIDE)) for text in ("6 a", "6 b", "4 c", "1 d")] == [False, True, True, True]


async def test_a_phrase_larger_than_the_bound_is_said_but_not_kept() -> None:
    renderer = Renderer(BigVoice())
    await renderer.keep(["17 a"], WIDE)
    assert renderer.kept("17 a", WIDE) is None
    assert len((await renderer.render("17 a", WIDE)).payload) == 17 * MEBIBYTE


async def test_a_phrase_that_two_calls_render_at_once_counts_once() -> None:
    renderer = Renderer(BigVoice())
    await asyncio.gather(*(renderer.keep(["9 a"], WIDE) for _ in range(3)))
    assert renderer.kept("9 a", WIDE) is not None
    await renderer.keep(["6 b"], WIDE)
    assert renderer.kept("9 a", WIDE) is not None


# -- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_after", [0, 1, 5])
async def test_a_voice_that_fails_is_a_speech_error_and_nothing_half_said_is_kept(fails_after: int) -> None:
    renderer = Renderer(Voice(frame=2400, fails_after=fails_after))
    with pytest.raises(SpeechError, match="cut off"):
        await renderer.keep(["Hello."], PCMU_8K)
    assert renderer.kept("Hello.", PCMU_8K) is None


async def test_a_phrase_whose_first_rendering_failed_is_kept_when_it_succeeds() -> None:
    voice = Voice(fails_after=0)
    renderer = Renderer(voice)
    with pytest.raises(SpeechError):
        await renderer.keep(["Hello."], PCMU_8K)
    voice.fails_after = None
    speech = await renderer.render("Hello.", PCMU_8K)
    assert renderer.kept("Hello.", PCMU_8K) is speech


async def test_a_rendering_that_is_cancelled_leaves_nothing_behind() -> None:
    renderer = Renderer(Voice(frame=2400))
    task = asyncio.create_task(renderer.keep(["Hello."], PCMU_8K))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert renderer.kept("Hello.", PCMU_8K) is None
