"""A lossy network and the recogniser: under 5 % loss and 40 ms of jitter the words stay what they were."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fastagent.media.frame import AudioFormat
from fastagent.media.g711 import Int16Array
from fastagent.media.resample import resample_block
from fastagent.media.rtp.concealment import Concealer
from fastagent.media.speech.embedded_stt import EmbeddedStt
from fastagent.media.speech.embedded_tts import EmbeddedTts
from fastagent.media.speech.rendering import Renderer
from fastagent.media.wav import read_wav
from tests.support.rtp_link import arrivals, packets_of, received, receiver

WIRE = AudioFormat("L16", 8000)
SENTENCES = (
    "I would like to book a table for four people on Friday evening.",
    "Can you please tell me when the next train to Boston leaves?",
    "I have lost my credit card and I need to block it right now.",
    "What are your opening hours on Saturday and on Sunday?",
)


def errors(wanted: str, heard: str) -> tuple[int, int]:
    """Word errors, and words."""
    one, other = wanted.lower().split(), heard.lower().split()
    row = list(range(len(other) + 1))
    for at, word in enumerate(one, 1):
        before, row[0] = row[:], at
        for i, spoken in enumerate(other, 1):
            row[i] = min(before[i] + 1, row[i - 1] + 1, before[i - 1] + (word != spoken))
    return row[-1], len(one)


@pytest.mark.real
async def test_words_survive_a_lossy_network() -> None:
    with ThreadPoolExecutor(2) as executor:
        stt, tts = EmbeddedStt(executor), EmbeddedTts(executor)
        await stt.warm_up()
        await tts.warm_up()
        renderer = Renderer(tts)

        async def words(samples: Int16Array) -> str:
            stream = stt.open(WIRE)
            stream.push(WIRE.encode(samples))
            return (await stream.finalize()).text

        clips = [WIRE.decode((await renderer.render(text, WIRE)).payload) for text in SENTENCES]
        for path in sorted((Path(__file__).parents[2] / "samples").glob("*.wav")):
            audio = read_wav(path)
            clips.append(resample_block(audio.samples, audio.rate_hz, 8000))
        wrong = whole = 0
        for seed, clip in enumerate(clips):
            clean = await words(clip)
            stream = arrivals(packets_of(clip), seed=seed, loss=0.05, jitter_s=0.04)
            lossy = await words(received(receiver(), stream, len(clip) / 8000 + 0.3))
            found = errors(clean, lossy)
            wrong, whole = wrong + found[0], whole + found[1]
    assert whole > 50
    assert wrong / whole <= 0.05


def test_what_is_made_up_is_nearer_to_the_speech_than_silence() -> None:
    samples = read_wav(Path(__file__).parents[2] / "samples/dev_02.wav")
    clip = resample_block(samples.samples, samples.rate_hz, 8000)
    gains = []
    for seed in range(5):
        packets = packets_of(clip)
        whole = received(receiver(), arrivals(packets), len(clip) / 8000)
        lossy = received(receiver(), arrivals(packets, loss=0.1, seed=seed), len(clip) / 8000)
        bare = receiver()
        bare._concealer = Mute(8000)
        silent = received(bare, arrivals(packets, loss=0.1, seed=seed), len(clip) / 8000)
        gains.append(distance(whole, silent) - distance(whole, lossy))
    assert min(gains) > 0


class Mute(Concealer):
    """What one gets without any concealment."""

    def heard(self, samples: Int16Array, rms: float) -> Int16Array:
        return samples

    def conceal(self, count: int) -> Int16Array:
        return np.zeros(count, np.int16)


def distance(one: Int16Array, other: Int16Array) -> float:
    """Mean log-spectral distance in dB, over frames of 20 ms."""
    count = min(len(one), len(other)) // 160 * 160

    def spectra(samples: Int16Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        frames = samples[:count].reshape(-1, 160).astype(float) * np.hanning(160)
        return np.asarray(20 * np.log10(np.abs(np.fft.rfft(frames, axis=1)) + 30))

    return float(np.sqrt(np.mean((spectra(one) - spectra(other)) ** 2)))
