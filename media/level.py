"""Loudness in dBFS: 0 is a full-scale square wave, silence is `FLOOR_DB`."""

import math

import numpy as np
import numpy.typing as npt

from fastagent.media.g711 import Int16Array

FLOOR_DB = -96.0


def rms(samples: Int16Array) -> float:
    """Return the root mean square of a block, as a sample value; quick, for what is asked of every frame."""
    floats = samples.astype(np.float32)
    return math.sqrt(float(floats @ floats) / len(floats)) if len(floats) else 0.0


def level_db(samples: Int16Array) -> float:
    """Return the RMS level of a block of samples in dBFS."""
    if not len(samples):
        return FLOOR_DB
    return float(levels_db(samples.reshape(1, -1))[0])


def levels_db(rows: Int16Array) -> npt.NDArray[np.float32]:
    """Return the RMS level of each row of `rows` (frames x samples) in dBFS."""
    floats = rows.astype(np.float32) * np.float32(1 / 32768)
    power = np.einsum("ij,ij->i", floats, floats) / rows.shape[1]
    return np.asarray(10.0 * np.log10(np.maximum(power, 10.0 ** (FLOOR_DB / 10))), np.float32)


def frame_levels_db(samples: Int16Array, frame_samples: int) -> npt.NDArray[np.float32]:
    """Return the level of each whole or partial frame of a block."""
    missing = -len(samples) % frame_samples
    padded = np.pad(samples, (0, missing)) if missing else samples
    return levels_db(padded.reshape(-1, frame_samples)) if len(padded) else np.empty(0, np.float32)
