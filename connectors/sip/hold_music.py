"""What callers hear whom we have put on hold: a WAV file, over and over, or silence."""

from pathlib import Path

import numpy as np

from fastagent.media.frame import FRAME_MS
from fastagent.media.g711 import Int16Array
from fastagent.media.resample import resample_block
from fastagent.media.wav import read_wav

_CHUNK_MS = 5 * FRAME_MS


class HoldMusic:
    """One file, for all calls.

    Args:
        path: the file; silence without one.

    Raises:
        OSError, MediaError: it cannot be read, or is no WAV.
    """

    def __init__(self, path: Path | None) -> None:
        self._audio = read_wav(path) if path is not None else None
        self._at_rate: dict[int, Int16Array] = {}

    def take(self, rate_hz: int, at: int) -> tuple[Int16Array, int]:
        """Return the next tenth of a second from a sample on, and the sample after it."""
        count = rate_hz * _CHUNK_MS // 1000
        if self._audio is None or not len(self._audio.samples):
            return np.zeros(count, np.int16), 0
        samples = self._at_rate.get(rate_hz)
        if samples is None:
            samples = self._at_rate[rate_hz] = resample_block(self._audio.samples, self._audio.rate_hz, rate_hz)
        return np.take(samples, range(at, at + count), mode="wrap"), (at + count) % len(samples)
