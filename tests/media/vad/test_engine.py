"""The engine that goes by level."""

import numpy as np
import pytest

from fastagent.media.vad.engine import SPEECH_LEVEL_DB, EnergyVad, energy_verdict


@pytest.mark.parametrize(("level_db", "verdict"), [(-96.0, 0.0), (SPEECH_LEVEL_DB, 0.0), (-37.9, 1.0), (0.0, 1.0)])
def test_what_is_loud_counts_as_speech(level_db: float, verdict: float) -> None:
    assert energy_verdict(level_db) == verdict


@pytest.mark.parametrize(("rate_hz", "samples"), [(8000, 256), (16000, 512), (24000, 768), (48000, 1536)])
def test_a_window_is_32_ms_at_every_rate(rate_hz: int, samples: int) -> None:
    assert EnergyVad().window_samples(rate_hz) == samples
    assert EnergyVad().state_size(rate_hz) == 0


def test_each_window_is_judged_by_its_level() -> None:
    windows = np.stack([np.full(256, level, np.float32) for level in (0.0, 0.012, 0.013, 1.0)])
    verdicts, states = EnergyVad().infer(windows, np.zeros((4, 0), np.float32), 8000)
    assert verdicts.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert states.shape == (4, 0)
