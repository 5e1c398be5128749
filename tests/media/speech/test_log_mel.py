"""The log-mel spectrogram against Whisper's own numbers and a plain second implementation."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from fastagent.media.g711 import Int16Array
from fastagent.media.speech.log_mel import log_mel
from tests.support.audio import tone

SILENCE = -1.5  # (log10(1e-10) + 4) / 4


def impulse(at: int) -> Int16Array:
    samples = np.zeros(3200, np.int16)
    samples[at] = 32767
    return samples


def mel(hz: float) -> float:
    """Slaney's scale: linear below 1 kHz, logarithmic above."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def hertz(value: float) -> float:
    return value * 200 / 3 if value < 15 else 1000 * math.exp((value - 15) * math.log(6.4) / 27)


def plain_filters() -> npt.NDArray[np.float64]:
    edges = [hertz(mel(8000) * at / 81) for at in range(82)]
    filters = np.zeros((80, 201))
    for band, (low, centre, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for bin_ in range(201):
            hz = bin_ * 40
            height = min((hz - low) / (centre - low), (high - hz) / (high - centre))
            filters[band, bin_] = max(0.0, height) * 2 / (high - low)
    return filters


def plain_log_mel(samples: Int16Array, frames: int) -> npt.NDArray[np.float64]:
    audio = np.zeros(frames * 160 + 200)
    audio[: min(len(samples), frames * 160)] = samples[: frames * 160] / 32768
    audio = np.pad(audio, (200, 0), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = [np.abs(np.fft.rfft(audio[at * 160 : at * 160 + 400] * window)) ** 2 for at in range(frames)]
    bands = np.log10(np.maximum(plain_filters() @ np.array(power).T, 1e-10))
    return np.asarray((np.maximum(bands, bands.max() - 8) + 4) / 4)


def test_the_filters_are_those_that_whisper_was_trained_with() -> None:
    # The first values of the mel_filters.npz that OpenAI published with the model.
    filters = plain_filters()
    assert filters[0, 1] == pytest.approx(0.02486259, abs=1e-8)
    assert filters[1, 1] == pytest.approx(0.00199082, abs=1e-8)
    assert filters[1, 2] == pytest.approx(0.02287177, abs=1e-8)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.random.default_rng(3).normal(0, 3000, 16000).astype(np.int16), id="noise"),
        pytest.param(tone(1.0, 700, 16000), id="tone"),
        pytest.param(impulse(30), id="a click at the reflected edge"),
        pytest.param(np.full(16000, -32768, np.int16), id="steady"),
    ],
)
def test_the_features_are_those_of_a_plain_implementation(samples: Int16Array) -> None:
    made = log_mel(samples, 120)
    assert made.shape == (1, 80, 120)
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    assert np.abs(made[0] - plain_log_mel(samples, 120)).max() < 2e-3


@pytest.mark.parametrize("count", [0, 1, 100])
def test_silence_is_the_lowest_level_everywhere(count: int) -> None:
    assert np.abs(log_mel(np.zeros(count, np.int16), 20) - SILENCE).max() < 1e-6


@pytest.mark.parametrize(("hz", "band"), [(200, 4), (1000, 26), (3000, 54), (6000, 72)])
def test_a_tone_is_found_in_its_band(hz: int, band: int) -> None:
    features = log_mel(tone(1.0, hz, 16000), 100)[0]
    assert abs(int(np.argmax(features[:, 50])) - band) <= 1


def test_audio_is_padded_with_silence_or_cut_to_the_frames_that_are_wanted() -> None:
    second = tone(1.0, 1000, 16000)
    padded = log_mel(second, 300)[0]
    assert padded[26, 150] == padded.min()
    assert padded[26, 50] == padded.max()
    assert np.array_equal(log_mel(np.tile(second, 3), 50), log_mel(second[:8000], 50))


def test_nothing_is_more_than_eighty_db_below_the_loudest() -> None:
    features = log_mel(tone(0.5, 1000, 16000), 100)
    assert features.max() - features.min() == pytest.approx(2.0, abs=1e-5)
