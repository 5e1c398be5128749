"""The forward pass in numpy against the packaged module, which runs through torch."""

from typing import Any

import numpy as np
import pytest
import torch
from silero_vad import load_silero_vad

from fastagent.media.g711 import Int16Array
from fastagent.media.resample import resample_block
from fastagent.media.speech.scripted import prepared_speech
from fastagent.media.vad.engine import Float32Array, VadEngine
from fastagent.media.vad.silero import SileroVad
from tests.support.audio import tone

RATES = pytest.mark.parametrize("rate_hz", [8000, 16000])


@pytest.fixture(scope="module")
def packaged() -> Any:
    return load_silero_vad()


def signals(rate_hz: int) -> dict[str, Int16Array]:
    """Some seconds of each kind of sound that a call brings."""
    spoken = resample_block(prepared_speech().samples, 8000, rate_hz)
    noise = np.random.default_rng(7).normal(0, 2000, 3 * rate_hz)
    return {
        "speech": spoken,
        "quiet speech": (spoken / 30).astype(np.int16),
        "clipped speech": np.clip(spoken.astype(np.int32) * 20, -32768, 32767).astype(np.int16),
        "speech in noise": np.clip(spoken + noise[: len(spoken)], -32768, 32767).astype(np.int16),
        "noise": noise.astype(np.int16),
        "tone": tone(2.0, 440, rate_hz),
        "full-scale tone": tone(1.0, 440, rate_hz, level=1.0),
        "silence": np.zeros(rate_hz, np.int16),
        "a click": np.where(np.arange(rate_hz) == 5000, 32767, 0).astype(np.int16),
        "steady": np.full(rate_hz, -32768, np.int16),
    }


def windows_of(samples: Int16Array, size: int) -> Float32Array:
    whole = samples[: len(samples) // size * size].reshape(-1, size)
    return whole.astype(np.float32) * np.float32(1 / 32768)


def ours(engine: VadEngine, samples: Int16Array, rate_hz: int) -> list[float]:
    state = np.zeros((1, engine.state_size(rate_hz)), np.float32)
    found = []
    for window in windows_of(samples, engine.window_samples(rate_hz)):
        verdict, state = engine.infer(window[None], state, rate_hz)
        found.append(float(verdict[0]))
    return found


def theirs(module: Any, samples: Int16Array, rate_hz: int, size: int) -> list[float]:
    module.reset_states()
    with torch.no_grad():
        return [float(module(torch.from_numpy(window), rate_hz)) for window in windows_of(samples, size)]


@RATES
@pytest.mark.parametrize("kind", signals(8000))
def test_probabilities_are_those_of_the_packaged_module(
    silero: SileroVad, packaged: Any, rate_hz: int, kind: str
) -> None:
    samples = signals(rate_hz)[kind]
    expected = theirs(packaged, samples, rate_hz, silero.window_samples(rate_hz))
    # float32 sums in another order on another processor: 1e-7 on one, 1e-5 on another.
    assert np.abs(np.array(ours(silero, samples, rate_hz)) - expected).max() < 1e-4


@RATES
def test_speech_is_speech_and_nothing_else_is(silero: SileroVad, rate_hz: int) -> None:
    found = {kind: np.array(ours(silero, samples, rate_hz)) for kind, samples in signals(rate_hz).items()}
    assert np.mean(found["speech"] > 0.5) > 0.7
    for kind in ("silence", "tone", "noise", "steady"):
        assert np.mean(found[kind] > 0.5) < 0.05, kind


@RATES
def test_a_batch_gives_each_row_what_it_gives_it_alone(silero: SileroVad, rate_hz: int) -> None:
    streams = [samples[: rate_hz // 2] for samples in signals(rate_hz).values()]
    alone = [ours(silero, samples, rate_hz) for samples in streams]
    size = silero.window_samples(rate_hz)
    states = np.zeros((len(streams), silero.state_size(rate_hz)), np.float32)
    rows = np.stack([windows_of(samples, size) for samples in streams])
    for at in range(rows.shape[1]):
        verdicts, states = silero.infer(np.ascontiguousarray(rows[:, at]), states, rate_hz)
        assert verdicts.tolist() == pytest.approx([one[at] for one in alone], abs=1e-5)


@RATES
def test_a_pass_leaves_what_it_was_given_as_it_was(silero: SileroVad, rate_hz: int) -> None:
    window = windows_of(signals(rate_hz)["speech"], silero.window_samples(rate_hz))[5:6].copy()
    state = np.full((1, silero.state_size(rate_hz)), 0.1, np.float32)
    before = window.copy(), state.copy()
    verdicts, fresh = silero.infer(window, state, rate_hz)
    assert np.array_equal(window, before[0])
    assert np.array_equal(state, before[1])
    assert verdicts.dtype == fresh.dtype == np.float32
    assert (verdicts.shape, fresh.shape) == ((1,), state.shape)


@pytest.mark.parametrize(("rate_hz", "window", "state"), [(8000, 256, 288), (16000, 512, 320)])
def test_a_window_is_32_ms_and_a_state_its_memory(silero: SileroVad, rate_hz: int, window: int, state: int) -> None:
    assert (silero.window_samples(rate_hz), silero.state_size(rate_hz)) == (window, state)
