"""The contract of a VAD engine, and the engine that needs no model.

An engine is stateless: the recurrent state of a call is a row that the service keeps, gathers into a batch, and stores
again. So a new call costs one row of zeros, and a batch mixes calls freely.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from fastagent.media.level import FLOOR_DB

Float32Array = npt.NDArray[np.float32]

SPEECH_LEVEL_DB = -38.0  # with no model to ask, anything this loud counts as speech


class VadEngine(Protocol):
    """Judges windows of speech; called off the event loop, one call at a time."""

    def window_samples(self, rate_hz: int) -> int:
        """Samples in one window at this rate."""
        ...

    def state_size(self, rate_hz: int) -> int:
        """Floats in a call's recurrent state at this rate."""
        ...

    def infer(self, windows: Float32Array, states: Float32Array, rate_hz: int) -> tuple[Float32Array, Float32Array]:
        """Return speech probabilities [B] and new states [B, S] for windows [B, W] in [-1, 1] and states [B, S]."""
        ...


def energy_verdict(level_db: float) -> float:
    """Return 1.0 where the level alone says speech, else 0.0."""
    return 1.0 if level_db > SPEECH_LEVEL_DB else 0.0


class EnergyVad:
    """Level instead of a model: for tests in virtual time, and where torch is not wanted."""

    def window_samples(self, rate_hz: int) -> int:
        """As Silero: 32 ms."""
        return rate_hz * 32 // 1000

    def state_size(self, rate_hz: int) -> int:
        """No memory."""
        return 0

    def infer(self, windows: Float32Array, states: Float32Array, rate_hz: int) -> tuple[Float32Array, Float32Array]:
        """Return 1.0 for each window above `SPEECH_LEVEL_DB`."""
        power = np.maximum(np.einsum("ij,ij->i", windows, windows) / windows.shape[1], 10.0 ** (FLOOR_DB / 10))
        return (10 * np.log10(power) > SPEECH_LEVEL_DB).astype(np.float32), states
