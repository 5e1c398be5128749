"""Keys as tones in the audio (ITU-T Q.23, Q.24): made, and found by Goertzel's filters.

A key is a low and a high tone. It is told from speech by what speech does not do for 40 ms: put nearly all of its
energy into just these two frequencies, about equally, and stay there.
"""

import numpy as np
import numpy.typing as npt

from fastagent.media.g711 import Int16Array
from fastagent.media.resample import FrameResampler

KEYS = ("123A", "456B", "789C", "*0#D")
_LOW_HZ, _HIGH_HZ = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
_RATE_HZ = 8000
_BLOCK, _HOP = 205, 80  # 25.6 ms, every 10 ms
_BLOCKS = 3  # that agree: 46 ms, of which a tone of 40 ms fills enough
_GAP_BLOCKS = 3  # without it: the key was let go
_FLOOR = 32768 * 10 ** (-36 / 20)  # of a tone's amplitude
_PURITY = 0.55  # of the energy is in the two tones; a tone that is off by 1.5 % shows but half of its own
_TWIST_DB, _REVERSE_TWIST_DB = 8.5, 6.5  # low over high, high over low
_ALONE_DB = 8.0  # a group's strongest over its second
_TONE_MS, _PAUSE_MS = 100, 100
_LEVEL = 32768 * 10 ** (-13 / 20)  # of each tone

Float = npt.NDArray[np.float64]


def _filters() -> npt.NDArray[np.complex128]:
    """One row a frequency: a window times a rotating phasor; its product with a block is the tone's amplitude."""
    window = np.hanning(_BLOCK)
    at = np.arange(_BLOCK) / _RATE_HZ
    turning = np.exp(-2j * np.pi * np.outer((*_LOW_HZ, *_HIGH_HZ), at))
    return np.asarray(turning * window * 2 / window.sum(), np.complex128)


_FILTERS = _filters()


def tones(keys: str, rate_hz: int) -> Int16Array:
    """Return keys as audio, each 100 ms and a pause of 100 ms.

    Raises:
        ValueError: one is no key.
    """
    at = np.arange(rate_hz * _TONE_MS // 1000) / rate_hz
    pause = np.zeros(rate_hz * _PAUSE_MS // 1000)
    parts: list[Float] = []
    for key in keys:
        row = next((row for row, names in enumerate(KEYS) if key in names), None)
        if row is None:
            raise ValueError(f"{key!r} is no key")
        low, high = _LOW_HZ[row], _HIGH_HZ[KEYS[row].index(key)]
        parts += [_LEVEL * (np.sin(2 * np.pi * low * at) + np.sin(2 * np.pi * high * at)), pause]
    return np.asarray(np.concatenate(parts) if parts else pause[:0], np.int16)


class ToneDetector:
    """One stream's; given audio frame by frame, it tells each key once, some 50 ms after it was pressed."""

    def __init__(self, rate_hz: int) -> None:
        self._down = FrameResampler(rate_hz, _RATE_HZ)
        self._held: Int16Array = np.zeros(_BLOCK - _HOP, np.int16)
        self._key, self._agreed, self._missed = "", 0, 0
        self._told = ""

    def push(self, samples: Int16Array) -> str:
        """Return the keys that were found; mostly none."""
        held = np.concatenate((self._held, self._down.push(samples)))
        count = max(0, (len(held) - _BLOCK) // _HOP + 1)
        found = ""
        for at in range(0, count * _HOP, _HOP):
            found += self._observe(_key_in(held[at : at + _BLOCK]))
        self._held = held[count * _HOP :]
        return found

    def _observe(self, key: str) -> str:
        """Take the verdict on one block; return the key when it has just become certain."""
        self._agreed = self._agreed + 1 if key and key == self._key else int(bool(key))
        self._key = key
        self._missed = 0 if key == self._told else self._missed + 1
        if self._missed >= _GAP_BLOCKS:
            self._told = ""
        if self._agreed < _BLOCKS or key == self._told:
            return ""
        self._told, self._missed = key, 0
        return key


def _key_in(block: Int16Array) -> str:
    """Return the key whose two tones a block is; "" for anything else."""
    signal = block.astype(np.float64)
    power = float(np.dot(signal, signal)) / _BLOCK
    if 2 * power < _FLOOR**2:
        return ""
    strengths = np.abs(_FILTERS @ signal)
    low, high = strengths[:4], strengths[4:]
    row, column = int(low.argmax()), int(high.argmax())
    one, other = float(low[row]), float(high[column])
    if min(one, other) < _FLOOR or (one**2 + other**2) / 2 < _PURITY * power:
        return ""
    twist = 20 * np.log10(one / other)
    if not -_REVERSE_TWIST_DB <= twist <= _TWIST_DB:
        return ""
    seconds = max(float(np.partition(group, -2)[-2] / group.max()) for group in (low, high))
    return KEYS[row][column] if 20 * np.log10(seconds + 1e-9) <= -_ALONE_DB else ""
