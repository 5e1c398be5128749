"""Audio for tests: tones, noise, speech that the package carries."""

import numpy as np

from fastagent.media.frame import PCMU_8K
from fastagent.media.g711 import Int16Array
from fastagent.media.speech.scripted import prepared_speech


def tone(seconds: float, hz: float = 440.0, rate_hz: int = 8000, level: float = 0.3) -> Int16Array:
    """A sine; `level` 1.0 is full scale."""
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.asarray(np.sin(2 * np.pi * hz * at) * 32767 * level, np.int16)


def ulaw_tone(seconds: float, hz: float = 440.0, level: float = 0.3) -> bytes:
    """The same as mu-law at 8 kHz."""
    return PCMU_8K.encode(tone(seconds, hz, level=level))


def speech(seconds: float) -> bytes:
    """Real speech as mu-law; what the package's scripted synthesiser says."""
    return PCMU_8K.encode(np.resize(prepared_speech().samples, round(seconds * 8000)))


def loud_frames(payload: bytes, above_db: float = -45.0) -> list[bool]:
    """Which 20 ms frames of mu-law audio are audible."""
    from fastagent.media.level import frame_levels_db

    return [bool(level > above_db) for level in frame_levels_db(PCMU_8K.decode(payload), 160)]
